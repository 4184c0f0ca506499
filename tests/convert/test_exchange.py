"""Every format: published names and sizes, golden weights there and back, faults."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unitoken_jax import convert
from unitoken_jax.convert.exchange import open_weights
from unitoken_jax.convert.files.sources import open_source
from unitoken_jax.convert.formats import config_of, format_of, network_of, node_of
from unitoken_jax.convert.table import expected_shapes, export_tensors
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.errors import REFUSED
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.llamagen import LlamaGenConfig, published
from unitoken_jax.models.perceptual.dinov2 import Dinov2Config
from unitoken_jax.models.perceptual.inception import InceptionConfig
from unitoken_jax.models.perceptual.lpips import LpipsConfig
from unitoken_jax.models.perceptual.stlpips import StLpipsConfig
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    VITAMIN_XLARGE,
    ViTaminClipConfig,
    ViTaminConfig,
)
from unitoken_jax.models.vqgan import VQGANConfig

GOLDEN = Path(__file__).parent.parent / "golden"

VISION = SiglipVisionConfig(hidden=36, mlp=72, layers=2, heads=3, image=56)
DECODER = DecoderConfig(
    vocab_size=8832,
    hidden=32,
    intermediate=64,
    layers=2,
    heads=4,
    kv_heads=4,
    head_dim=8,
)
# Two rows of QK-norm, grouped-query heads and norms after: all that 34B has.
WIDE = DecoderConfig(
    vocab_size=48,
    hidden=32,
    intermediate=96,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=8,
    model_parallel_size=2,
    swin_norm=True,
)
TEXT = SiglipTextConfig(vocab_size=50, length=8, hidden=24, mlp=40, layers=1, heads=2)
VQ = VQGANConfig(
    resolution=64,
    ch=32,
    ch_mult=(1, 1, 2),
    num_res_blocks=1,
    attn_resolutions=(16,),
    z_channels=32,
    embed_dim=16,
    n_embed=64,
)
LLAMA = DecoderConfig(
    vocab_size=40,
    hidden=32,
    intermediate=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    qk_norm=False,
)
LLAMAGEN = LlamaGenConfig(
    hidden=64,
    layers=2,
    heads=4,
    multiple_of=32,
    classes=10,
    codebooks=4,
    codes=32,
    side=4,
    depth_layers=1,
)
UNITOK = UniTokConfig(
    vision=ViTaminConfig(
        widths=(16, 32), depths=(2, 4), hidden=64, layers=3, heads=4, mlp=128
    ),
    text=ClipTextConfig(
        vocab_size=100, length=12, hidden=32, layers=2, heads=2, mlp=128, embed=32
    ),
    vocab_size=256,
    vocab_width=16,
    num_codebooks=4,
)
UNITOK_LINEAR = dataclasses.replace(
    UNITOK, vocab_size=64, num_codebooks=1, projection="linear"
)
MLLM = UniTokMllmConfig(
    decoder=dataclasses.replace(LLAMA, vocab_size=120, intermediate=64, kv_heads=4),
    codebooks=4,
    codes=64,
    code_width=4,
    projection=64,
    projection_heads=4,
)
DINO = Dinov2Config(hidden=64, mlp=256, heads=4)
TINY = {
    "unitoken": UniTokenConfig(decoder=DECODER, vision=VISION),
    "lumina": WIDE,
    "chameleon-hf": WIDE,
    "chameleon-meta": WIDE,
    "siglip-hf": SiglipConfig(vision=VISION, text=TEXT, embed=36),
    "vqgan": VQ,
    "llama-hf": LLAMA,
    "unitok": UNITOK,
    "clip-text": UNITOK.text,
    "vitamin-clip": ViTaminClipConfig(vision=UNITOK.vision, text=UNITOK.text),
    "unitok-mllm": MLLM,
    "dinov2": dataclasses.replace(DINO, layers=2, grid=4),
    "lpips": LpipsConfig(widths=(4, 6), depths=(2, 1)),
    "stlpips": StLpipsConfig(widths=(4, 6), sizes=(11, 5)),
    "llamagen": LLAMAGEN,
}
GOLDEN_CASES = {
    "unitoken_anyres_tiny": ("unitoken", TINY["unitoken"]),
    "vqgan_tiny": ("vqgan", VQ),
    "unitok_tiny": ("unitok", UNITOK),
    "unitok_tiny_linear": ("unitok", UNITOK_LINEAR),
    "unitok_mllm_tiny": ("unitok-mllm", MLLM),
    "llamagen_tiny": ("llamagen", LLAMAGEN),
}


def random_params(config, dtype=np.float32):
    rng = np.random.default_rng(0)
    abstract = network_of(config).abstract(config)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(dtype), abstract
    )
    if isinstance(config, ViTaminClipConfig):
        norm = params["encoder"]["transformer"]["norm"]  # in no file
        norm["scale"][:], norm["bias"][:] = 1, 0
    return params


def module_of(config):
    return network_of(config).module(config)


def assert_equal(left, right):
    def same(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, left, right)


@pytest.mark.parametrize(
    ("name", "config", "tensors", "parameters"),
    [
        ("unitoken", UniTokenConfig(), 871, 7_462_888_512),
        ("lumina", DecoderConfig(), 419, 7_013_158_912),
        ("chameleon-meta", DecoderConfig(), 420, 7_013_158_912 + 64),
        ("siglip-hf", SiglipVisionConfig(), 448, 428_225_600),
        ("siglip-hf", SiglipConfig(), 888, 877_960_498),
        ("vqgan", VQGANConfig(), 293, 68_718_467),
        (
            "llama-hf",
            DecoderConfig(vocab_size=32_000, qk_norm=False),
            291,
            6_738_415_616,
        ),
        ("unitok", UniTokConfig(), 1335, 820_298_692 + 8 * 4096 + 2 * 1024),
        ("clip-text", ClipTextConfig(), 149, 123_650_304),
        # UniTok's 332,331,936 less the last norm and the zero positions.
        ("vitamin-clip", ViTaminClipConfig(), 705, 332_328_864 + 123_650_304),
        ("unitok-mllm", UniTokMllmConfig(), 372, 7_508_685_056),
        ("dinov2", Dinov2Config(), 175, 22_056_576),
        ("lpips", LpipsConfig(), 31, 14_714_688 + 1472),
        ("stlpips", StLpipsConfig(), 15, 2_469_696 + 1152),
        ("inception", InceptionConfig(), 472, 23_885_392),
        ("llamagen", published("B"), 132, 164_376_064),
        ("llamagen", published("XXL"), 384, 1_574_566_912),
    ],
)
def test_published_sizes(name, config, tensors, parameters):
    network = network_of(config)
    shapes = expected_shapes(
        format_of(name).table(config), network.abstract(config), network.counts(config)
    )
    assert len(shapes) == tensors
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_weights_there_and_back_bit_by_bit(case, tmp_path):
    name, config = GOLDEN_CASES[case]
    path = GOLDEN / f"{case}.weights.safetensors"
    model, params = convert.load(name, path, config)
    convert.save(name, model, params, tmp_path / "back.safetensors")
    golden, back = load_file(path), load_file(tmp_path / "back.safetensors")
    assert set(back) == set(golden)
    assert_equal(back, golden)


@pytest.mark.parametrize("name", TINY)
def test_saved_folders_load_with_their_own_configuration(name, tmp_path):
    if name == "chameleon-meta":
        pytest.skip("its files are PyTorch's; tests_torch has them")
    config = TINY[name]
    params = random_params(config, ml_dtypes.bfloat16)
    convert.save(name, module_of(config), params, tmp_path / "out")
    model, loaded = convert.load(name, tmp_path / "out")
    assert model.config == config
    assert_equal(loaded, params)


@pytest.mark.parametrize("name", TINY)
def test_the_configuration_survives_the_published_form(name):
    kind, config = format_of(name), TINY[name]
    values = json.loads(json.dumps(kind.write_config(config, {})))
    assert kind.read_config(values) == config


@pytest.mark.parametrize("name", TINY)
def test_through_our_checkpoint_and_back(name, tmp_path):
    """Published files → jax → published files, streamed, bit by bit."""
    config = TINY[name]
    params = random_params(config, ml_dtypes.bfloat16)
    extra = {"vocabulary_map": {"<image>": 7, "a": 8}}
    convert.save("jax", module_of(config), params, tmp_path / "jax", published=extra)
    model, loaded = convert.load("jax", tmp_path / "jax")
    assert model.config == config
    assert_equal(loaded, params)
    if name == "chameleon-meta":
        return
    convert.convert("jax", name, tmp_path / "jax", tmp_path / "one")
    convert.convert(name, "jax", tmp_path / "one", tmp_path / "again")
    convert.convert("jax", name, tmp_path / "again", tmp_path / "two")
    one, two = open_source(tmp_path / "one"), open_source(tmp_path / "two")
    assert one.config == two.config
    if "vocabulary_map" in one.config:
        assert one.config["vocabulary_map"] == extra["vocabulary_map"]
    assert_equal(dict(one), dict(two))
    assert_equal(convert.load("jax", tmp_path / "again")[1], params)


@pytest.mark.parametrize("books", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("name", ["unitok-mllm", "llamagen"])
def test_any_number_of_codebooks(name, books, tmp_path):
    config = dataclasses.replace(TINY[name], codebooks=books)
    params = random_params(config)
    convert.save(name, module_of(config), params, tmp_path / "theirs")
    convert.convert(name, "jax", tmp_path / "theirs", tmp_path / "ours")
    model, loaded = convert.load("jax", tmp_path / "ours")
    assert model.config == config
    assert_equal(loaded, params)


def test_meta_and_hugging_face_agree():
    """The three spellings of one decoder give the same parameters."""
    params = random_params(WIDE)
    by_name = {}
    for name in ("lumina", "chameleon-hf", "chameleon-meta"):
        weights = open_weights("jax", params, WIDE)
        kind, network = format_of(name), network_of(WIDE)
        by_name[name] = export_tensors(kind.table(WIDE), params, network.counts(WIDE))
        _, loaded = convert.load(name, by_name[name], WIDE)
        assert_equal(loaded, params)
        assert weights.config == WIDE
    norm = "model.layers.1.self_attn.q_norm.weight"
    rows = by_name["lumina"][norm]
    assert rows.shape == (2, 8)
    np.testing.assert_array_equal(
        by_name["chameleon-hf"][norm], np.repeat(rows, 2, axis=0)
    )
    # Meta's pairs stand side by side: element 2i of theirs is element i of ours.
    theirs = by_name["chameleon-meta"]["layers.1.attention.wq.weight"]
    ours = by_name["lumina"]["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(theirs[8:16:2], ours[8:12])
    np.testing.assert_array_equal(theirs[9:16:2], ours[12:16])


def test_parts_of_a_model_are_written_alone(tmp_path):
    config = TINY["unitoken"]
    params = random_params(config)
    model = module_of(config)
    convert.save("chameleon-hf", model, params, tmp_path / "decoder")
    loaded, decoder = convert.load("chameleon-hf", tmp_path / "decoder")
    assert loaded.config == DECODER
    assert_equal(decoder, params["decoder"])
    convert.save("siglip-hf", model, params, tmp_path / "vision")
    loaded, vision = convert.load("siglip-hf", tmp_path / "vision")
    assert loaded.config == VISION
    assert_equal(vision, params["vision"])


def test_chameleon_with_its_image_tokenizer(tmp_path):
    config = dataclasses.replace(WIDE, vocab_size=80)
    tokenizer = (module_of(VQ), random_params(VQ))
    names = {f"IMGIMG{letters(code)}Z": 4 + code for code in range(VQ.n_embed)}
    convert.save(
        "chameleon-hf",
        module_of(config),
        random_params(config),
        tmp_path / "out",
        image_tokenizer=tokenizer,
        published={"vocabulary_map": names | {"<image>": 3}},
    )
    source = open_source(tmp_path / "out")
    assert "model.vqmodel.encoder.conv_in.weight" in source
    assert not any("decoder" in key for key in source)
    assert source.config["vq_config"]["num_embeddings"] == 64
    assert source.config["vocabulary_map"]["IMGIMGFDZ"] == 4 + 53
    _, loaded = convert.load("chameleon-hf", tmp_path / "out")
    assert_equal(loaded, random_params(config))


def letters(code):
    """A code as Chameleon's names spell it."""
    return "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code))


def test_parts_of_larger_files_are_read_alone():
    """A tower's names may carry the prefix that they have in the whole model."""
    golden = GOLDEN / "unitok_tiny.weights.safetensors"
    _, text = convert.load("clip-text", golden, UNITOK.text)
    assert_equal(text, convert.load("unitok", golden, UNITOK)[1]["text"])
    whole = load_file(GOLDEN / "dino_discriminator.weights.safetensors")
    _, backbone = convert.load("dinov2", whole, DINO)
    kind, counts = format_of("dinov2"), {"block": DINO.layers}
    back = export_tensors(kind.table(DINO), backbone, counts)
    assert len(back) == sum(key.startswith("dino.") for key in whole)
    assert_equal(back, {key: whole[f"dino.{key}"] for key in back})
    golden = GOLDEN / "unitoken_anyres_tiny.weights.safetensors"
    _, vision = convert.load("siglip-hf", golden, VISION)
    assert_equal(
        vision, convert.load("unitoken", golden, TINY["unitoken"])[1]["vision"]
    )


def open_clip_config(name, embed, width, layers):
    vision = {"timm_model_name": name, "timm_pool": "", "timm_drop_path": 0.1}
    heads = 16 if width > 768 else width // 64
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": heads}
    text["layers"] = layers
    return {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text}


@pytest.mark.parametrize(
    ("name", "vision", "embed", "width", "layers"),
    [
        ("vitamin_small_224", VITAMIN_SMALL, 384, 384, 12),
        ("vitamin_base_224", VITAMIN_BASE, 512, 512, 12),
        ("vitamin_large_256", VITAMIN_LARGE, 768, 768, 12),
        ("vitamin_large2_384", VITAMIN_LARGE, 1024, 1024, 24),
        ("vitamin_xlarge_256", VITAMIN_XLARGE, 1152, 1152, 27),
    ],
)
def test_open_clips_configurations_are_read(name, vision, embed, width, layers):
    values = open_clip_config(name, embed, width, layers)
    config = format_of("vitamin-clip").read_config({"model_cfg": values})
    assert config == format_of("vitamin-clip").read_config(values)
    assert config.vision == vision
    text = config.text
    assert (text.hidden, text.mlp, text.layers) == (width, 4 * width, layers)
    assert (text.embed, text.heads) == (embed, values["text_cfg"]["heads"])


def test_other_clips_of_open_clip_are_refused():
    read = format_of("vitamin-clip").read_config
    values = open_clip_config("vit_base_patch16_224", 512, 512, 12)
    refused("timm_model_name is 'vit_base.*known are vitamin_small", read, values)
    values = open_clip_config("vitamin_base_224", 512, 512, 12)
    values["text_cfg"]["no_causal_mask"] = True
    refused("no_causal_mask=True", read, values)


def test_a_vitamin_clip_is_read_from_the_files_of_open_clip(tmp_path):
    """Folder with its own configuration's name, names of a training, dropped parts."""
    config = TINY["vitamin-clip"]
    params, kind = random_params(config), format_of("vitamin-clip")
    counts = network_of(config).counts(config)
    tensors = export_tensors(kind.table(config), params, counts)
    tensors |= {
        "logit_scale": np.asarray(4.6, np.float32),
        "visual.trunk.pos_embed": np.ones((1, 4, 64), np.float32),
        "visual.trunk.fc_norm.weight": np.ones(64, np.float32),
        "visual.head.proj.weight": np.ones((32, 64), np.float32),
    }
    save_file(
        {f"module.{key}": array for key, array in tensors.items()},
        tmp_path / "open_clip_model.safetensors",
    )
    described = {"model_cfg": kind.write_config(config, {})}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    model, loaded = convert.load("vitamin-clip", tmp_path)
    assert model.config == config
    assert_equal(loaded, params)
    convert.convert("vitamin-clip", "clip-text", tmp_path, tmp_path / "text")
    assert_equal(convert.load("clip-text", tmp_path / "text")[1], params["text"])
    params["encoder"]["transformer"]["norm"]["bias"][3] = 1
    refused(
        "no place for encoder/transformer/norm/bias",
        convert.save,
        "vitamin-clip",
        model,
        params,
        tmp_path / "trained",
    )


def test_types_can_be_changed(tmp_path):
    params = random_params(WIDE)
    convert.save("lumina", module_of(WIDE), params, tmp_path / "a", dtype="bfloat16")
    assert {str(a.dtype) for a in open_source(tmp_path / "a").values()} == {"bfloat16"}
    _, loaded = convert.load("lumina", tmp_path / "a", dtype=np.float32)
    expected = jax.tree.map(
        lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), params
    )
    assert_equal(loaded, expected)


def test_command(tmp_path):
    source = GOLDEN / "unitoken_anyres_tiny.weights.safetensors"
    described = format_of("unitoken").write_config(TINY["unitoken"], {})
    (tmp_path / "tiny.json").write_text(json.dumps(described))

    def command(**values):
        names = {"from": "unitoken", "to": "jax", "input": source} | values
        flags = [f"--{name}={value}" for name, value in names.items()]
        call = [sys.executable, "-m", "unitoken_jax.convert", *flags]
        done = subprocess.run(call, check=False, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    out = tmp_path / "jax"
    code, printed, faults = command(output=out, config=tmp_path / "tiny.json")
    assert (code, faults) == (0, "")
    assert printed.startswith(f"{out} written in")
    model, params = convert.load("jax", out)
    assert model.config == TINY["unitoken"]
    assert_equal(params, convert.load("unitoken", source, TINY["unitoken"])[1])
    code, _, faults = command(output=tmp_path / "x", config=source)
    assert code == REFUSED
    assert faults.startswith(f"error: {source} is not JSON")


# ---- faults


def refused(match, function, *args, **kwargs):
    with pytest.raises(WeightsError, match=match):
        function(*args, **kwargs)


def test_unknown_formats_are_refused():
    refused("no format 'unitokn'; did you mean 'unitoken'", format_of, "unitokn")


def test_the_wrong_format_is_recognized():
    weights = load_file(GOLDEN / "vqgan_tiny.weights.safetensors")
    refused("look like vqgan", convert.load, "lumina", weights, WIDE)
    refused("lumina holds a Chameleon", convert.load, "lumina", weights, VQ)
    weights = load_file(GOLDEN / "unitoken_anyres_tiny.weights.safetensors")
    refused("look like unitoken", convert.load, "lumina", weights, WIDE)
    silent = "does not describe its model, so that the published one was assumed"
    refused(silent, convert.load, "unitoken", weights)


def test_fine_tuned_norms_ask_for_more_rows():
    """Another library trains the rows apart, which one row a shard cannot hold."""
    table = format_of("chameleon-hf").table(WIDE)
    weights = export_tensors(table, random_params(WIDE), {"layer": 3})
    key = "model.layers.2.self_attn.q_norm.bias"
    weights[key] = weights[key] + np.arange(4, dtype=np.float32)[:, None]
    refused(
        "layers.2.self_attn.q_norm.bias.*model_parallel_size=4",
        convert.load,
        "chameleon-hf",
        weights,
        WIDE,
    )


def test_norms_of_the_other_format_are_explained():
    table = format_of("chameleon-hf").table(WIDE)
    weights = export_tensors(table, random_params(WIDE), {"layer": 3})
    refused(
        r"q_norm.weight should be \(2, 8\) and is \(4, 8\) \(its rows are those of"
        r" another model_parallel_size or format\)",
        convert.load,
        "lumina",
        weights,
        WIDE,
    )


def test_a_model_without_the_part_is_refused(tmp_path):
    refused(
        "holds a UniToken, and the source is a VQGAN; it can be written as jax, vqgan",
        convert.save,
        "unitoken",
        module_of(VQ),
        random_params(VQ),
        tmp_path / "x",
    )
    refused(
        "only chameleon-hf has",
        convert.save,
        "vqgan",
        module_of(VQ),
        random_params(VQ),
        tmp_path / "x",
        image_tokenizer=(module_of(VQ), random_params(VQ)),
    )
    assert not (tmp_path / "x").exists()


def test_what_our_networks_cannot_do_is_refused():
    kind = format_of("llama-hf")
    scaled = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    refused("scales its rotary positions", kind.read_config, scaled)
    refused("tie_word_embeddings", kind.read_config, {"tie_word_embeddings": True})
    refused("hidden_act", format_of("siglip-hf").read_config, {"hidden_act": "gelu"})
    odd = DecoderConfig(
        hidden=32, intermediate=10**6 + 1, heads=4, kv_heads=4, head_dim=8
    )
    refused("never gives", format_of("chameleon-meta").write_config, odd, {})


def test_published_defaults_without_any_description():
    assert format_of("unitoken").read_config({}) == UniTokenConfig()
    assert format_of("lumina").read_config({}) == DecoderConfig()
    assert format_of("chameleon-meta").read_config({}) == DecoderConfig()
    assert format_of("siglip-hf").read_config({}) == SiglipVisionConfig()
    assert format_of("vqgan").read_config({}) == VQGANConfig()
    assert format_of("llamagen").read_config({}) == LlamaGenConfig()


def test_published_arguments_of_unitok():
    """The fields that matter, of those in the `args` of a checkpoint."""
    kind = format_of("unitok")
    assert kind.read_config({}) == UniTokConfig()
    args = {
        "model": "vitamin_base",
        "vocab_size": 16_384,
        "vocab_width": 768,
        "num_codebooks": 1,
        "quant_proj": "linear",
        "embed_dim": 512,
        "text_width": 512,
        "text_heads": 8,
        "lr": 5e-4,
    }
    config = kind.read_config(args)
    assert config.vision == VITAMIN_BASE
    assert (config.projection, config.codes) == ("linear", 16_384)
    assert (config.text.heads, config.text.mlp, config.text.embed) == (8, 2048, 512)
    assert kind.write_config(config, args)["model"] == "vitamin_base"
    refused("model is 'vit'", kind.read_config, {"model": "vit"})
    refused("quant_proj is 'mlp'", kind.read_config, {"quant_proj": "mlp"})


def test_published_arguments_of_llamagen():
    """As the training script of the published code stores them."""
    args = {
        "gpt_model": "GPT-B",
        "num_codebooks": 4,
        "vocab_size": 512,
        "n_output_layer": 2,
        "image_size": 256,
        "class_dropout_prob": 0.1,
        "optimizer": "adamw",
    }
    config = format_of("llamagen").read_config(args)
    fields = {"codebooks": 4, "codes": 128, "depth_layers": 2, "null_class": True}
    assert config == published("B", class_dropout=0.1, **fields)
    refused("no size 'Q'", format_of("llamagen").read_config, {"gpt_model": "GPT-Q"})


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("says", [True, False])
def test_label_rows_of_llamagen_are_counted(rows, says, tmp_path):
    """1000 and 1001 rows load, whatever the arguments say of the dropout."""
    config = dataclasses.replace(LLAMAGEN, classes=3, null_class=rows == 4)
    params = random_params(config)
    path = tmp_path / "model.safetensors"
    convert.save("llamagen", module_of(config), params, path)
    fields = format_of("llamagen").write_config(config, {})
    fields["class_dropout_prob"] = 0.1 if says else 0.0
    module, loaded = convert.load("llamagen", path, fields)
    assert module.config.null_class == (rows == 4)
    assert module.config.class_dropout == (0.1 if says and rows == 4 else 0.0)
    assert_equal(loaded, params)


def test_image_codes_come_from_the_vocabulary():
    names = {"IMGIMGAAZ": 11, "IMGIMGABZ": 12, "<image>": 3}
    config = format_of("unitoken").read_config({"vocabulary_map": names})
    assert (config.first_image_code, config.last_image_code) == (11, 12)


def test_configurations_as_nodes():
    for config in TINY.values():
        node = json.loads(json.dumps(node_of(config)))
        assert config_of(node, "model") == config
    refused("kind is 'unitokn'", config_of, {"kind": "unitokn"}, "model")
    refused("no network", network_of, 3)
