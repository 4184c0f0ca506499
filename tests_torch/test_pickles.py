"""PyTorch files: read only where that is safe, written as their own loaders expect."""

import argparse
import json
import pickle
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import yaml

from unitoken_jax import convert
from unitoken_jax.convert.files.sources import ArraySource, open_source
from unitoken_jax.convert.formats import format_of, network_of
from unitoken_jax.convert.table import expected_shapes, export_tensors
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.vitamin import ViTaminConfig
from unitoken_jax.models.vqgan import VQGANConfig

DECODER = DecoderConfig(
    vocab_size=48,
    hidden=32,
    intermediate=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
)
VQ = VQGANConfig(
    resolution=32,
    ch=32,
    ch_mult=(1, 2),
    num_res_blocks=1,
    z_channels=8,
    embed_dim=8,
    n_embed=16,
)


class Hostile:
    """Unpickling it would run code of its author."""

    ran = False

    def __reduce__(self):
        return setattr, (Hostile, "ran", True)


def random_params(config, dtype=np.float32):
    rng = np.random.default_rng(0)
    abstract = network_of(config).abstract(config)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(dtype), abstract
    )


def refused(path, *texts):
    with pytest.raises(WeightsError) as caught:
        open_source(path)
    for text in texts:
        assert text in str(caught.value)


def state():
    return {
        "a": torch.randn(3, 5).bfloat16(),
        "b": torch.randn(4),
        "c": torch.arange(3),
        "d": torch.nn.Parameter(torch.randn(2, 3)).T,
    }


def assert_same(source, tensors):
    assert set(source) == set(tensors)
    for key, tensor in tensors.items():
        assert source.spec(key).shape == tuple(tensor.shape)
        assert source[key].dtype == source.spec(key).dtype
        expected = tensor.detach().float().numpy()
        np.testing.assert_array_equal(source[key].astype(np.float32), expected)
    assert source["a"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.ckpt", "model.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_are_read(name, zipped, tmp_path):
    tensors = state()
    torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_same(open_source(tmp_path / name), tensors)
    assert_same(open_source(tmp_path), tensors)
    assert_same(ArraySource(tensors), tensors)


@pytest.mark.parametrize("wrap", [("state_dict",), ("model",), ("trainer", "unitok")])
@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_published_wrappers_are_opened(wrap, kind, tmp_path):
    args = kind(embed_dim=64, dtype=torch.bfloat16, betas=(0.9, 0.95))
    contents = tensors = state()
    for name in reversed(wrap):
        contents = {name: contents, "step": 3}
    contents["args"] = args
    torch.save(contents, tmp_path / "model.pth")
    source = open_source(tmp_path / "model.pth")
    assert_same(source, tensors)
    assert source.config["embed_dim"] == 64


def test_shards_with_an_index(tmp_path):
    tensors = state()
    torch.save({"a": tensors["a"]}, tmp_path / "one.bin")
    torch.save({k: tensors[k] for k in "bcd"}, tmp_path / "two.bin")
    index = {"weight_map": {"a": "one.bin", "b": "two.bin", "c": "two.bin"}}
    index["weight_map"]["d"] = "two.bin"
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same(open_source(tmp_path), tensors)


def test_nothing_is_unpickled_unsafely(tmp_path):
    torch.save({"w": torch.zeros(3), "extra": Hostile()}, tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", "bad.pth holds more than tensors", "trust")
    hidden = argparse.Namespace(size=Hostile())
    torch.save({"model": {"w": torch.zeros(3)}, "args": hidden}, tmp_path / "args.pth")
    refused(tmp_path / "args.pth", "args.pth holds more than tensors")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"w": Hostile()}))
    refused(tmp_path / "plain.pth")
    assert not Hostile.ran


def test_damaged_files_are_sentences(tmp_path):
    torch.save({"w": torch.zeros(3000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:2000])
    refused(tmp_path / "cut.pth", "cut.pth is cut off")
    (tmp_path / "text.pth").write_bytes(b"<html>not found</html>" * 9)
    refused(tmp_path / "text.pth", "text.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "holds a list and not a state dict")
    torch.save({"w": torch.zeros(3), "epoch": 3}, tmp_path / "mixed.pth")
    refused(tmp_path / "mixed.pth", "epoch is a int, not a tensor")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_vqgan_as_its_own_loader_reads_it(dtype, tmp_path):
    params = random_params(VQ, dtype)
    model = network_of(VQ).module(VQ)
    convert.save("vqgan", model, params, tmp_path / "vqgan.ckpt")
    contents = torch.load(tmp_path / "vqgan.ckpt", weights_only=True)
    assert set(contents) >= {"state_dict"}
    assert contents["state_dict"]["quantize.embedding.weight"].shape == (16, 8)
    loaded, again = convert.load("vqgan", tmp_path / "vqgan.ckpt", VQ)
    assert loaded.config == VQ
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_vqgan_is_described_by_the_file_beside_it(tmp_path):
    convert.save(
        "vqgan", network_of(VQ).module(VQ), random_params(VQ), tmp_path / "vqgan.ckpt"
    )
    (tmp_path / "vqgan.yaml").write_text(
        "model:\n  params:\n    embed_dim: 8\n    n_embed: 16\n    ddconfig:\n"
        "      double_z: false\n      z_channels: 8\n      resolution: 32\n"
        "      in_channels: 3\n      out_ch: 3\n      ch: 32\n      ch_mult: [1, 2]\n"
        "      num_res_blocks: 1\n      attn_resolutions: []\n      dropout: 0.0\n"
    )
    loaded, _ = convert.load("vqgan", tmp_path / "vqgan.ckpt")
    assert loaded.config == VQ


UNITOK = UniTokConfig(
    vision=ViTaminConfig(
        widths=(16, 32), depths=(2, 4), hidden=64, layers=1, heads=4, mlp=128
    ),
    text=ClipTextConfig(
        vocab_size=50, length=8, hidden=32, layers=1, heads=2, mlp=128, embed=32
    ),
    vocab_size=256,
    vocab_width=16,
    num_codebooks=4,
)
LLAMAGEN = LlamaGenConfig(
    hidden=32, layers=1, heads=2, multiple_of=8, classes=3, codebooks=2, codes=8, side=2
)


@pytest.mark.parametrize(
    ("name", "config", "wrap"),
    [("unitok", UNITOK, ("trainer", "unitok")), ("llamagen", LLAMAGEN, ("model",))],
)
def test_checkpoints_of_unitok_and_llamagen(name, config, wrap, tmp_path):
    """Wrapped as their loaders unwrap them, with the arguments they read beside."""
    params = random_params(config)
    network = network_of(config)
    convert.save(name, network.module(config), params, tmp_path / "model.pth")
    contents = torch.load(tmp_path / "model.pth", weights_only=True)
    assert contents["args"]["vocab_size"] == (256 if name == "unitok" else 16)
    state = contents
    for key in wrap:
        state = state[key]
    expected = expected_shapes(
        format_of(name).table(config), network.abstract(config), network.counts(config)
    )
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    loaded, again = convert.load(name, tmp_path / "model.pth")
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("shards", [1, 2])
def test_meta_shards_there_and_back(shards, tmp_path):
    config = DecoderConfig(**(vars(DECODER) | {"model_parallel_size": shards}))
    params = random_params(config, ml_dtypes.bfloat16)
    model = network_of(config).module(config)
    convert.save("chameleon-meta", model, params, tmp_path / "meta")
    names = [path.name for path in sorted((tmp_path / "meta").glob("*.pth"))]
    first = torch.load(tmp_path / "meta" / names[0], weights_only=True)
    if shards == 1:
        assert names == ["consolidated.pth"]
    else:
        assert names == ["consolidated.00.pth", "consolidated.01.pth"]
    assert first["layers.0.attention.wq.weight"].shape == (32 // shards, 32)
    assert first["layers.0.attention.wo.weight"].shape == (32, 32 // shards)
    assert first["layers.0.attention.q_normalization.weight"].shape == (8,)
    assert first["tok_embeddings.weight"].shape == (48, 32 // shards)
    assert first["norm.weight"].shape == (32,)
    assert "rope.freqs" in first  # Meta's loader asserts it
    loaded, again = convert.load("chameleon-meta", tmp_path / "meta")
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    convert.convert("chameleon-meta", "lumina", tmp_path / "meta", tmp_path / "lumina")
    _, lumina = convert.load("lumina", tmp_path / "lumina")
    jax.tree.map(np.testing.assert_array_equal, lumina, params)


def test_meta_rotation_equals_ours():
    """Interleaved pairs of the file rotate as our halves do."""
    width, theta = 8, 10_000.0
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 5, width))
    angles = np.arange(5)[:, None] * theta ** (-np.arange(0, width, 2) / width)

    def interleaved(x):
        turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(5, width)

    def halves(x):
        a, b = x[:, : width // 2], x[:, width // 2 :]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    from unitoken_jax.convert.layouts import rotary_halves

    layout = rotary_halves(width, -1)
    ours = [layout.to_ours(x, [x.shape])[0] for x in (query, key)]
    np.testing.assert_allclose(
        halves(ours[0]) @ halves(ours[1]).T, interleaved(query) @ interleaved(key).T
    )


def test_meta_folders_without_shards_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no consolidated\.pth"):
        convert.load("chameleon-meta", tmp_path)


# ---- checkpoints of trainings


def trained(config, name, factor=1.0):
    """A published state dict as PyTorch tensors."""
    network = network_of(config)
    tensors = export_tensors(
        format_of(name).table(config), random_params(config), network.counts(config)
    )
    return {key: torch.tensor(factor * array) for key, array in tensors.items()}


def llamagen_file(path, wrap="{}", sets=("model", "ema")):
    """As train_c2i.py writes it."""
    factors = {"model": 1.0, "ema": 2.0}
    contents = {
        name: {
            wrap.format(key): tensor
            for key, tensor in trained(LLAMAGEN, "llamagen", factors[name]).items()
        }
        for name in sets
    }
    moments = {"exp_avg": torch.zeros(3), "step": torch.tensor(5.0)}
    contents["optimizer"] = {"state": {0: moments}, "param_groups": [{"lr": 1e-4}]}
    contents["steps"] = 7
    contents["args"] = argparse.Namespace(
        gpt_model="GPT-B",
        dim=32,
        n_layer=1,
        n_head=2,
        multiple_of=8,
        num_classes=3,
        num_codebooks=2,
        vocab_size=16,
        image_size=32,
        num_output_layer=4,
        dropout_p=0.1,
        token_dropout_p=0.1,
        class_dropout_prob=0.0,
        ema=True,
        drop_path_rate=0.0,
    )
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    "wrap", ["{}", "module.{}", "_orig_mod.{}", "module._orig_mod.{}"]
)
def test_llamagens_own_checkpoints(wrap, tmp_path, caplog):
    path = llamagen_file(tmp_path / "0000007.pt", wrap)
    model, params = convert.load("llamagen", path)
    assert model.config == LLAMAGEN
    expected = random_params(LLAMAGEN)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert "holds ema too; model is read" in caplog.text
    _, averaged = convert.load("llamagen", path, weights="ema")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b), averaged, expected)
    convert.convert("llamagen", "jax", path, tmp_path / "ours", weights="ema")
    _, ours = convert.load("jax", tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, ours, averaged)


def test_the_sets_of_a_file_are_listed(tmp_path):
    path = llamagen_file(tmp_path / "latest.pt")
    with pytest.raises(WeightsError) as caught:
        convert.load("llamagen", path, weights="average")
    numbers = sum(tensor.numel() for tensor in trained(LLAMAGEN, "llamagen").values())
    for name in ("model", "ema"):
        assert f"{name} (43 tensors, {numbers:,} numbers)" in str(caught.value)
    assert "optimizer" not in str(caught.value)
    path = llamagen_file(tmp_path / "only.pt", sets=["ema"])
    _, params = convert.load("llamagen", path)
    np.testing.assert_allclose(
        params["norm"]["scale"], 2 * random_params(LLAMAGEN)["norm"]["scale"]
    )
    torch.save({"first": state(), "second": state()}, tmp_path / "two.pt")
    refused(
        tmp_path / "two.pt", "several sets of weights", "--weights", "first", "second"
    )
    torch.save({"epoch": 3, "args": {"a": 1}}, tmp_path / "none.pt")
    refused(tmp_path / "none.pt", "holds no tensors by name, but epoch, args")


def test_unitoks_own_checkpoints(tmp_path):
    """Discriminator and optimizers lie beside; the usual set needs no word."""
    contents = {
        "args": format_of("unitok").write_config(UNITOK, {})
        | {"dtype": torch.bfloat16},
        "epoch": 0,
        "iter": 5,
        "trainer": {
            "config": {"dcrit": "hg"},
            "unitok": trained(UNITOK, "unitok"),
            "disc": {"heads.0.weight": torch.zeros(3)},
            "unitok_optim": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        },
    }
    torch.save(contents, tmp_path / "ckpt.pth")
    model, params = convert.load("unitok", tmp_path / "ckpt.pth")
    assert model.config == UNITOK
    jax.tree.map(np.testing.assert_array_equal, params, random_params(UNITOK))
    source = open_source(tmp_path / "ckpt.pth", "trainer.disc")
    assert set(source) == {"heads.0.weight"}


def test_exports_describe_themselves_where_their_loader_looks(tmp_path):
    """vqgan.yaml as Chameleon's loader reads it; beside a plain state dict a JSON."""
    config = VQGANConfig(**(vars(VQ) | {"attn_resolutions": (16,), "dropout": 0.25}))
    convert.save(
        "vqgan",
        network_of(config).module(config),
        random_params(config),
        tmp_path / "vqgan.ckpt",
    )
    described = yaml.safe_load((tmp_path / "vqgan.yaml").read_text())
    params = described["model"]["params"]
    assert params["ddconfig"]["attn_resolutions"] == [16]
    assert params["n_embed"] == 16
    assert convert.load("vqgan", tmp_path / "vqgan.ckpt")[0].config == config
    llama = DecoderConfig(**(vars(DECODER) | {"qk_norm": False, "rope_theta": 5.0}))
    module, weights = network_of(llama).module(llama), random_params(llama)
    convert.save("llama-hf", module, weights, tmp_path / "llama.pth")
    assert convert.load("llama-hf", tmp_path / "llama.pth")[0].config == llama
    with pytest.raises(WeightsError, match=r"llama.json exists already"):
        convert.save("llama-hf", module, weights, tmp_path / "llama.bin")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"vqgan.ckpt", "vqgan.yaml", "llama.pth", "llama.json"}


def test_tensors_that_are_not_plain_are_sentences():
    kinds = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
    }
    for tensor in kinds.values():
        with pytest.raises(WeightsError, match=r"norm.weight .*save plain tensors"):
            convert.load("llama-hf", {"model.norm.weight": tensor})


def test_pickled_shards_must_agree_with_their_index(tmp_path):
    tensors = state()
    torch.save({"a": tensors["a"]}, tmp_path / "one.bin")
    torch.save({k: tensors[k] for k in "abc"}, tmp_path / "two.bin")
    index = {"weight_map": {"a": "one.bin", "b": "two.bin"}}
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(index))
    refused(tmp_path, "two.bin holds a too")
    index["weight_map"]["z"] = "one.bin"
    path.write_text(json.dumps(index))
    refused(tmp_path, "one.bin holds no z")


def test_meta_shards_that_do_not_belong_together(tmp_path):
    config = DecoderConfig(**(vars(DECODER) | {"model_parallel_size": 2}))
    model = network_of(config).module(config)
    convert.save("chameleon-meta", model, random_params(config), tmp_path / "meta")
    second = tmp_path / "meta" / "consolidated.01.pth"
    kept = torch.load(second, weights_only=True)
    torch.save(kept | {"norm.weight": torch.ones(31)}, second)
    with pytest.raises(WeightsError, match=r"norm.weight is \(32,\).*not shards"):
        convert.load("chameleon-meta", tmp_path / "meta")
    torch.save({k: v for k, v in kept.items() if k != "norm.weight"}, second)
    with pytest.raises(WeightsError, match=r"norm.weight is in .*00.pth and not in"):
        convert.load("chameleon-meta", tmp_path / "meta")
    second.rename(tmp_path / "meta" / "consolidated.03.pth")
    with pytest.raises(WeightsError, match=r"all from consolidated\.00\.pth on"):
        convert.load("chameleon-meta", tmp_path / "meta")


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from unitoken_jax.convert.files import sinks
from unitoken_jax.convert.table import Spec, WeightsError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
specs = {"w": Spec((100_000,), np.dtype(np.float32))}
try:
    sinks.write_weights(
        Path(sys.argv[1]) / "x.pth",
        specs,
        lambda key: np.zeros(100_000, np.float32),
        {"a": 1},
        beside=".json",
    )
except WeightsError as fault:
    print(fault)
"""


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "x.pth failed" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    torch.save(state(), path / "zip")
    torch.save(state(), path / "old", _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("kind", ["zip", "old"])
def test_fuzzed_files(kind, folder):
    """Read whole, or refused in a sentence that names the file: 300 of each kind."""
    rng = np.random.default_rng(0)
    whole = (folder / kind).read_bytes()
    read = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(0, 3)):
            data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        if rng.integers(3) == 0:
            del data[rng.integers(len(data)) :]
        (folder / "x.pth").write_bytes(data)
        said = opened(folder / "x.pth")
        assert not said or "x.pth" in said
        read += not said
    assert 0 < read < 300


def opened(path):
    """What is said against a file, every tensor of which is read."""
    try:
        source = open_source(path)
        for key in source:
            source[key]
    except WeightsError as fault:
        return str(fault)
    return ""
