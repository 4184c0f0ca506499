"""Every field of ours is written, refused or free in every format, by name."""

import dataclasses
import json

import numpy as np
import pytest

from tests.convert.test_exchange import (
    LLAMA,
    MLLM,
    TINY,
    UNITOK,
    VQ,
    WIDE,
    module_of,
    random_params,
)
from unitoken_jax import convert
from unitoken_jax.convert import fields
from unitoken_jax.convert.formats import FORMATS, format_of
from unitoken_jax.convert.published.vqgan import write_vq_config
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.siglip import SiglipConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vqgan import VQGANConfig

NAMES = {"vocabulary_map": {"IMGIMGAZ": 4, "IMGIMGBZ": 5, "<image>": 3}}


def classes_of(config):
    """Classes of a configuration and of its parts."""
    found = {type(config)}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and field.name != "objective":
            found |= classes_of(value)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_field_is_mentioned(name):
    """A new field of a model must be decided on in each of its formats."""
    kind = format_of(name)
    wanted = {one for config in kind.published for one in classes_of(config)}
    wanted |= {VQGANConfig} if name == "chameleon-hf" else set()
    assert set(kind.holdings) == wanted
    for one in wanted:
        named = {field.name for field in dataclasses.fields(one)}
        assert set(kind.holdings[one]) == named, (name, one)


def flat(values, prefix=""):
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_called_written_is_written(name):
    kind = format_of(name)
    for config in kind.published:
        written = set(flat(kind.write_config(config, NAMES)))
        if name == "llamagen":
            wide = dataclasses.replace(config, intermediate=64)
            written |= set(flat(kind.write_config(wide, {})))
        for one in classes_of(config):
            for field, held in kind.holdings[one].items():
                # An image tower stands alone or in `vision_config`.
                alike = written | {
                    key.removeprefix("vision_config.") for key in written
                }
                missing = set(held.names) - alike
                assert not missing, (name, one.__name__, field, missing)
                assert held.names or held.kind != "written", (name, field)
    if name == "chameleon-hf":
        written = set(write_vq_config(VQ))
        for held in kind.holdings[VQGANConfig].values():
            assert {key for key in held.names if "." not in key} <= written


def other(value):
    """Another value of a field, that its configuration still accepts."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 or 0.25
    if isinstance(value, tuple):
        return tuple(2 * part for part in value) or (4,)
    return value


@pytest.mark.parametrize("name", TINY)
def test_written_fields_come_back(name):
    """Each field alone: changed, it survives the published form or is refused."""
    kind = format_of(name)

    def changed(config):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name == "objective":
                continue
            if dataclasses.is_dataclass(value):
                for part, path, held in changed(value):
                    try:
                        whole = dataclasses.replace(config, **{field.name: part})
                    except ValueError:
                        continue  # does not fit the other part
                    yield whole, path, held
                continue
            try:
                new = dataclasses.replace(config, **{field.name: other(value)})
            except ValueError:
                continue  # does not fit the other fields
            yield new, field.name, kind.holdings[type(config)][field.name]

    for config, field, held in changed(TINY[name]):
        try:
            fields.check(name, config, kind.holdings)
        except WeightsError:
            continue
        if held.kind not in ("written", "usual") or field == "null_class":
            continue
        said = vocabulary(config)
        try:
            values = json.loads(json.dumps(kind.write_config(config, said)))
        except WeightsError:
            continue  # says so by itself
        if field == "multiple_of":  # another rule may give the same width
            assert kind.read_config(values).blocks(1) == config.blocks(1)
            continue
        assert kind.read_config(values) == config, (name, field)


def vocabulary(config):
    if not isinstance(config, UniTokenConfig):
        return {}
    first, last = config.first_image_code, config.last_image_code
    return {"vocabulary_map": {"IMGIMGAZ": first, "IMGIMGBZ": last}}


def change(config, **values):
    return dataclasses.replace(config, **values)


SIGLIP: SiglipConfig = TINY["siglip-hf"]  # pyright: ignore[reportAssignmentType]
UNITOKEN: UniTokenConfig = TINY["unitoken"]  # pyright: ignore[reportAssignmentType]
REFUSED = [
    ("vqgan", change(VQ, num_groups=8), "num_groups=8", "32"),
    ("unitok", change(UNITOK, normalize=False), "normalize=False", "True"),
    ("unitok", change(UNITOK, causal=True), "causal=True", "False"),
    ("unitok", change(UNITOK, structure="residual"), "structure='residual'", "split"),
    ("unitok", change(UNITOK, projection_heads=2), "projection_heads=2", "4"),
    (
        "unitok",
        change(UNITOK, text=change(UNITOK.text, norm_eps=1e-6)),
        "text.norm_eps=1e-06",
        "1e-05",
    ),
    ("unitok", change(UNITOK, text=change(UNITOK.text, mlp=64)), "text.mlp=64", "128"),
    ("lumina", change(WIDE, head_dim=16), "head_dim=16", "8"),
    ("chameleon-hf", LLAMA, "qk_norm=False", "True"),
    ("chameleon-meta", change(WIDE, head_dim=16), "head_dim=16", "8"),
    ("llama-hf", WIDE, "swin_norm=True", "False"),
    ("llama-hf", WIDE, "qk_norm=True", "False"),
    (
        "siglip-hf",
        change(SIGLIP, text=change(SIGLIP.text, mask_padding=True)),
        "text.mask_padding=True",
        "--part=vision",
    ),
    ("unitoken", change(UNITOKEN, vision=None), "vision=None", "lumina"),
    (
        "unitok-mllm",
        UniTokMllmConfig(decoder=MLLM.decoder, projection_heads=8),
        "projection_heads=8",
        "16",
    ),
    ("dinov2", change(TINY["dinov2"], norm_eps=1e-5), "norm_eps=1e-05", "1e-06"),
]


@pytest.mark.parametrize(("name", "config", "field", "reason"), REFUSED)
def test_what_a_class_cannot_be_is_refused_by_field(
    name, config, field, reason, tmp_path
):
    params = {} if isinstance(config, UniTokMllmConfig) else random_params(config)
    with pytest.raises(WeightsError) as caught:
        convert.save(name, module_of(config), params, tmp_path / "x")
    assert field in str(caught.value)
    assert reason in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_quickstarts_tokenizer_is_refused(tmp_path):
    from configs.quickstart import TOKENIZER

    node = {key: value for key, value in TOKENIZER.items() if key != "kind"}
    config = VQGANConfig(**node | {"resolution": 16})
    with pytest.raises(WeightsError, match=r"num_groups=8.*has 32"):
        convert.save(
            "vqgan", module_of(config), random_params(config), tmp_path / "vqgan"
        )
    chameleon = change(WIDE, vocab_size=600)
    with pytest.raises(WeightsError, match=r"image tokenizer.*num_groups=8"):
        convert.save(
            "chameleon-hf",
            module_of(chameleon),
            random_params(chameleon),
            tmp_path / "hf",
            image_tokenizer=(module_of(config), random_params(config)),
            published={"vocabulary_map": codes(512)},
        )
    assert not list(tmp_path.iterdir())


def codes(count):
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    names = {f"IMGIMG{str(i).translate(letters)}Z": 4 + i for i in range(count)}
    return names | {"<image>": 3}


def test_uneven_shards_of_meta_are_refused(tmp_path):
    config = change(WIDE, vocab_size=49)
    with pytest.raises(WeightsError, match="vocab_size=49"):
        convert.save(
            "chameleon-meta", module_of(config), random_params(config), tmp_path / "x"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "config", "text"),
    [
        ("unitok", UNITOK, "vitamin_base and vitamin_large"),
        ("unitok-mllm", change(MLLM, codebooks=3), "codebooks=3"),
        ("unitoken", UNITOKEN, "vision.hidden=36"),
        ("vitamin-clip", TINY["vitamin-clip"], "strict=False"),
    ],
)
def test_sizes_that_a_release_fixes_are_said(name, config, text, tmp_path, caplog):
    convert.save(name, module_of(config), random_params(config), tmp_path / "x")
    assert text in caplog.text
    assert (tmp_path / "x").is_dir()


def test_released_sizes_need_no_word():
    for kind in map(format_of, FORMATS):
        for config in kind.published:
            assert fields.check("x", config, kind.holdings) == []
    assert format_of("unitok").changes(UniTokConfig()) == []


def test_a_single_file_describes_its_model(tmp_path):
    """What no shape shows comes back: the heads, the wavelength, the small number."""
    config = change(LLAMA, rope_theta=500.0, norm_eps=1e-3, heads=2, kv_heads=2)
    config = change(config, head_dim=16)
    path = tmp_path / "model.safetensors"
    convert.save("llama-hf", module_of(config), random_params(config), path)
    assert convert.load("llama-hf", path)[0].config == config
    # A description beside it is of another file.
    (tmp_path / "config.json").write_text('{"num_attention_heads": 1}')
    assert convert.load("llama-hf", path)[0].config == config


def test_another_part_is_written_by_name(tmp_path):
    config = UNITOKEN
    params = random_params(config)
    convert.save("jax", module_of(config), params, tmp_path / "tower", part="vision")
    model, tower = convert.load("jax", tmp_path / "tower")
    assert model.config == config.vision
    np.testing.assert_array_equal(
        tower["norm"]["scale"], params["vision"]["norm"]["scale"]
    )
    with pytest.raises(WeightsError, match=r"no part 'text'.*decoder, vision"):
        convert.save("jax", module_of(config), params, tmp_path / "x", part="text")


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("lumina", {"hidden_size": "32"}, "hidden_size='32'"),
        ("lumina", {"hidden_size": None}, "hidden_size=null"),
        ("lumina", {"hidden_size": -32}, "hidden_size=-32"),
        ("lumina", {"hidden_size": 32.5}, "hidden_size=32.5"),
        ("lumina", {"hidden_size": True}, "hidden_size=True"),
        ("lumina", {"num_hidden_layers": 10**9}, "between 1 and 4096"),
        ("lumina", {"rope_theta": "1e4"}, "rope_theta='1e4'"),
        ("lumina", {"rope_theta": 0}, "rope_theta=0"),
        ("lumina", {"rope_scaling": "linear"}, "rope_scaling='linear'"),
        ("lumina", {"rms_norm_eps": -1}, "rms_norm_eps=-1"),
        ("lumina", {"num_key_value_heads": 5}, "heads=32"),
        ("unitoken", {"vocabulary_map": [1]}, "vocabulary_map"),
        ("unitoken", {"vocabulary_map": {"IMGIMGAZ": "4"}}, "without an id"),
        ("vqgan", {"model": "vitamin_large"}, "model='vitamin_large'"),
        ("vqgan", {"ddconfig": {"ch_mult": "12"}}, "ch_mult='12'"),
        ("vqgan", {"ddconfig": {"ch_mult": [1, 0]}}, "ch_mult"),
        ("vqgan", {"ddconfig": {"ch_mult": [1] * 99}}, "ch_mult"),
        ("vqgan", {"ddconfig": {"attn_type": "none"}}, "attn_type"),
        ("unitok", {"num_codebooks": 5}, "not a multiple"),
        ("unitok", {"num_query": 4}, "num_query=4"),
        ("unitok", {"encoder": {"heads": 0}}, "heads=0"),
        ("llamagen", {"gpt_type": "t2i"}, "gpt_type"),
        ("llamagen", {"block_size": 3}, "no square"),
        ("llamagen", {"n_head": 4, "n_kv_head": 2, "dim": 64}, "n_kv_head=2"),
        (
            "llamagen",
            {"n_output_layer": 1, "num_output_layer": 2},
            "which are one field",
        ),
        ("siglip-hf", {"vision_config": []}, "vision_config=\\[\\]"),
        ("siglip-hf", {"image_size": 8}, "patch=16"),
        ("chameleon-meta", {"model": 3}, "model=3"),
        ("inception", {"resize": "area"}, "resize='area'"),
        ("dinov2", {"embed_dim": 10, "num_heads": 3}, "multiple of heads"),
    ],
)
def test_values_that_fit_nothing_are_named(name, values, text):
    source = {"w": np.zeros(3, np.float32)}
    with pytest.raises(WeightsError, match=text):
        convert.load(name, source, values)


def test_the_training_scripts_names_of_llamagen():
    """`args` of a file that train_c2i.py wrote."""
    read = format_of("llamagen").read_config
    args = {"gpt_model": "GPT-B", "vocab_size": 32768, "num_output_layer": 2}
    args |= {"dropout_p": 0.2, "drop_path_rate": 0.0, "cls_token_num": 1}
    config = read(args)
    assert (config.depth_layers, config.dropout, config.hidden) == (2, 0.2, 768)
    assert read(args | {"drop_path_rate": 0.1}).dropout == 0
    written = format_of("llamagen").write_config(config, {})
    assert written["num_output_layer"] == written["n_output_layer"] == 2
    assert written["gpt_model"] == "GPT-B"


def test_a_row_for_no_class_needs_a_rate_in_the_class():
    config = change(TINY["llamagen"], null_class=True)
    written = format_of("llamagen").write_config(config, {})
    assert written["class_dropout_prob"] > 0


def test_meta_s_masked_image_logits_stay(tmp_path):
    """Lumina's class reads them; our decoder alone does not have them."""
    config = change(UNITOKEN, mask_image_logits=True)
    params = random_params(config)
    convert.save("lumina", module_of(config), params, tmp_path / "x")
    described = json.loads((tmp_path / "x/config.json").read_text())
    assert described["mask_image_logits"] is True
    assert isinstance(format_of("lumina").read_config(described), DecoderConfig)
