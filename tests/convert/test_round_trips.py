"""Small models of every format, drawn: what is written is what is read again."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.convert.test_exchange import (
    TINY,
    WIDE,
    assert_equal,
    module_of,
    random_params,
)
from tests.convert.test_holdings import vocabulary
from unitoken_jax import convert
from unitoken_jax.convert import fields
from unitoken_jax.convert.files import sinks
from unitoken_jax.convert.files.sources import open_source
from unitoken_jax.convert.formats import FORMATS, format_of, network_of
from unitoken_jax.convert.table import (
    Constant,
    Rule,
    expected_shapes,
    export_tensors,
    import_tensors,
)
from unitoken_jax.convert.tensors import Spec, WeightsError
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.perceptual.dinov2 import Dinov2Config
from unitoken_jax.models.perceptual.inception import InceptionConfig
from unitoken_jax.models.perceptual.lpips import LpipsConfig
from unitoken_jax.models.perceptual.stlpips import StLpipsConfig
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from unitoken_jax.models.vqgan import VQGANConfig

SMALL = st.integers(1, 3)
EPSILONS = st.sampled_from([1e-6, 1e-5, 1e-3])


@st.composite
def decoders(draw, *, qk_norm=True):
    """Decoders whose heads share the width, in shards that come out even."""
    shards = draw(st.sampled_from([1, 2])) if qk_norm else 1
    groups, size = draw(SMALL), 2 * draw(SMALL)
    kv_heads = shards * draw(SMALL)
    heads = kv_heads * groups
    return dataclasses.replace(
        WIDE,
        vocab_size=shards * draw(st.integers(5, 40)),
        hidden=heads * size,
        intermediate=shards * 4 * draw(SMALL),
        layers=draw(SMALL),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size,
        rope_theta=draw(st.sampled_from([500.0, 10_000.0, 1e6])),
        norm_eps=draw(EPSILONS),
        qk_norm=qk_norm,
        model_parallel_size=shards,
        swin_norm=qk_norm and draw(st.booleans()),
    )


@st.composite
def towers(draw):
    heads = draw(SMALL)
    patch = draw(st.integers(2, 4))
    return SiglipVisionConfig(
        hidden=2 * heads * draw(SMALL),
        mlp=draw(st.integers(1, 9)),
        layers=draw(SMALL),
        heads=heads,
        image=patch * draw(SMALL),
        patch=patch,
        head=draw(st.booleans()),
        norm_eps=draw(EPSILONS),
    )


@st.composite
def siglips(draw):
    vision, heads = draw(towers()), draw(SMALL)
    vision = dataclasses.replace(vision, head=True)
    text = SiglipTextConfig(
        vocab_size=draw(st.integers(5, 40)),
        length=draw(SMALL),
        hidden=heads * draw(SMALL),
        mlp=draw(st.integers(1, 9)),
        layers=draw(SMALL),
        heads=heads,
    )
    return SiglipConfig(vision=vision, text=text, embed=vision.hidden)


@st.composite
def unitokens(draw):
    first = draw(st.integers(0, 9))
    decoder = dataclasses.replace(draw(decoders()), vocab_size=64)
    return dataclasses.replace(
        TINY["unitoken"],
        decoder=decoder,
        vision=draw(towers()),
        z_loss=draw(st.sampled_from([0.0, 1e-5])),
        first_image_code=first,
        last_image_code=first + draw(SMALL),
        mask_image_logits=draw(st.booleans()),
    )


@st.composite
def vqgans(draw):
    multipliers = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=2)))
    side = 4 * 2 ** (len(multipliers) - 1)
    return VQGANConfig(
        resolution=side,
        ch=32,
        ch_mult=multipliers,
        num_res_blocks=draw(st.integers(1, 2)),
        attn_resolutions=draw(st.sampled_from([(), (4,), (side,)])),
        z_channels=32,
        embed_dim=draw(st.integers(2, 8)),
        n_embed=draw(st.integers(2, 9)),
        dropout=draw(st.sampled_from([0.0, 0.25])),
    )


@st.composite
def texts(draw):
    heads = draw(SMALL)
    hidden = heads * draw(SMALL)
    return dataclasses.replace(
        TINY["clip-text"],
        vocab_size=draw(st.integers(5, 40)),
        length=draw(st.integers(2, 6)),
        hidden=hidden,
        layers=draw(SMALL),
        heads=heads,
        mlp=4 * hidden,
        embed=draw(st.integers(1, 8)),
    )


@st.composite
def unitoks(draw):
    books = draw(st.sampled_from([1, 2, 4]))
    return dataclasses.replace(
        TINY["unitok"],
        text=draw(texts()),
        vocab_size=books * draw(st.integers(2, 9)),
        num_codebooks=books,
        projection=draw(st.sampled_from(["attention", "linear"])),
        beta=draw(st.sampled_from([0.25, 0.5])),
    )


@st.composite
def mllms(draw):
    return dataclasses.replace(
        TINY["unitok-mllm"],
        codebooks=draw(st.integers(1, 5)),
        codes=draw(st.integers(2, 9)),
        depth_layers=draw(SMALL),
    )


@st.composite
def llamagens(draw):
    null_class = draw(st.booleans())
    return LlamaGenConfig(
        hidden=64,
        layers=draw(SMALL),
        heads=draw(st.sampled_from([1, 2, 4])),
        multiple_of=draw(st.sampled_from([16, 32, 256])),
        classes=draw(st.integers(2, 9)),
        null_class=null_class,
        class_dropout=0.1 if null_class else 0.0,
        codebooks=draw(st.integers(1, 4)),
        codes=draw(st.integers(2, 9)),
        side=draw(SMALL),
        depth_layers=draw(SMALL),
        rope_theta=draw(st.sampled_from([500.0, 10_000.0])),
        norm_eps=draw(EPSILONS),
    )


@st.composite
def dinos(draw):
    heads = draw(SMALL)
    hidden = heads * draw(SMALL)
    return Dinov2Config(
        hidden=hidden,
        mlp=4 * hidden,
        layers=draw(SMALL),
        heads=heads,
        grid=draw(SMALL),
        patch=draw(st.integers(2, 4)),
    )


SLICES = st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=3)
DRAWN = {
    "unitoken": unitokens(),
    "lumina": decoders(),
    "chameleon-hf": decoders(),
    "chameleon-meta": decoders(),
    "siglip-hf": towers() | siglips(),
    "vqgan": vqgans(),
    "llama-hf": decoders(qk_norm=False),
    "unitok": unitoks(),
    "clip-text": texts(),
    "vitamin-clip": texts().map(
        lambda text: dataclasses.replace(TINY["vitamin-clip"], text=text)
    ),
    "unitok-mllm": mllms(),
    "dinov2": dinos(),
    "lpips": SLICES.map(
        lambda pairs: LpipsConfig(*(tuple(part) for part in zip(*pairs, strict=True)))
    ),
    "stlpips": SLICES.map(
        lambda pairs: StLpipsConfig(*(tuple(part) for part in zip(*pairs, strict=True)))
    ),
    "llamagen": llamagens(),
    "inception": st.sampled_from([InceptionConfig()]),
}


def test_every_format_is_drawn():
    assert set(DRAWN) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_configurations_come_back(name, data):
    """Ours → what is published → JSON → ours; or it is refused by its fields."""
    config, kind = data.draw(DRAWN[name]), format_of(name)
    try:
        fields.check(name, config, kind.holdings)
        values = kind.write_config(config, vocabulary(config))
    except WeightsError as fault:
        assert name in str(fault) or "never gives" in str(fault) or "Meta" in str(fault)  # noqa: PT017
        return
    again = kind.read_config(json.loads(json.dumps(values)))
    if name == "llamagen":  # another rule may give the same width
        assert again.blocks(1) == config.blocks(1)
        again = dataclasses.replace(
            again, multiple_of=config.multiple_of, intermediate=config.intermediate
        )
    assert again == config


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "inception"])
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_numbers_come_back(name, data):
    """Ours → published names → ours, bit by bit, in the shapes that the table says."""
    config, kind = data.draw(DRAWN[name]), format_of(name)
    dtype = data.draw(st.sampled_from([np.float32, ml_dtypes.bfloat16]))
    network, params = network_of(config), random_params(config, dtype)
    counts, table = network.counts(config), kind.table(config)
    exported = export_tensors(table, params, counts)
    shapes = expected_shapes(table, network.abstract(config), counts)
    assert {key: array.shape for key, array in exported.items()} == shapes
    assert {array.dtype for array in exported.values()} == {np.dtype(dtype)}
    assert_equal(
        import_tensors(table, exported, network.abstract(config), counts), params
    )


@pytest.mark.parametrize("name", [name for name in TINY if name != "inception"])
def test_no_number_is_lost_or_doubled(name):
    """Every number of ours is in one published tensor, but for those that repeat."""
    config, kind = TINY[name], format_of(name)
    network, params = network_of(config), random_params(config)
    counts, table = network.counts(config), kind.table(config)
    exported = export_tensors(table, params, counts)
    constants = {rule.key for rule in table if isinstance(rule, Constant)}
    repeated = name == "chameleon-hf"  # one row of QK-norm for each head
    ours = np.sort(np.concatenate([leaf.ravel() for leaf in leaves(params)]))
    theirs = [a.ravel() for key, a in exported.items() if key not in constants]
    found = np.sort(np.concatenate(theirs))
    if repeated:
        found, ours = np.unique(found), np.unique(ours)
    if name == "vitamin-clip":  # the last norm has no place
        ours = ours[~np.isin(ours, [0, 1])]
    np.testing.assert_array_equal(found, ours)


def leaves(tree):
    for value in tree.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


@pytest.mark.parametrize("name", [name for name in TINY if name != "chameleon-meta"])
@pytest.mark.parametrize("size", [1, 2_000, 10**9])
def test_shards_of_any_size_hold_the_same(name, size, tmp_path):
    config = TINY[name]
    params = random_params(config, np.float16)
    convert.save(name, module_of(config), params, tmp_path / "whole")
    whole = open_source(tmp_path / "whole")
    specs = {key: Spec(array.shape, array.dtype) for key, array in whole.items()}
    sinks.write_weights(tmp_path / "cut", specs, whole.__getitem__, shard_bytes=size)
    cut = open_source(tmp_path / "cut")
    assert_equal(dict(cut), dict(whole))
    files = list((tmp_path / "cut").glob("*.safetensors"))
    wanted = {1: len(specs), 10**9: 1}.get(size)
    assert wanted is None or len(files) == wanted


@pytest.mark.parametrize("name", ["clip-text", "dinov2", "lpips", "siglip-hf"])
def test_any_prefix_of_a_larger_file_is_found(name, tmp_path):
    config = TINY["siglip-hf"].vision if name == "siglip-hf" else TINY[name]
    params, kind = random_params(config), format_of(name)
    exported = export_tensors(
        kind.table(config), params, network_of(config).counts(config)
    )
    rest = {"another.part": np.zeros(3, np.float32)}
    for prefix in kind.prefixes:
        part = {f"{prefix}{key}": array for key, array in exported.items()}
        for wrapped in ("", "module.", "_orig_mod."):
            source = {f"{wrapped}{key}": array for key, array in (part | rest).items()}
            assert_equal(convert.load(name, source, config)[1], params)


@pytest.mark.parametrize("name", [name for name in TINY if name != "inception"])
def test_one_tensor_too_few_or_too_many_is_named(name):
    config, kind = TINY[name], format_of(name)
    exported = export_tensors(
        kind.table(config), random_params(config), network_of(config).counts(config)
    )
    rule = next(rule for rule in kind.table(config) if isinstance(rule, Rule))
    key = next(key for key in exported if key.startswith(rule.key.split("{")[0]))
    fewer = {one: array for one, array in exported.items() if one != key}
    with pytest.raises(WeightsError, match=r"1 tensor\(s\) are missing") as caught:
        convert.load(name, fewer, config)
    assert key in str(caught.value)
    more = exported | {"some.other.name": np.zeros(2, np.float32)}
    with pytest.raises(WeightsError, match=r"not of this format: some\.other\.name"):
        convert.load(name, more, config)
    grown = exported | {key: np.zeros((*exported[key].shape, 2), np.float32)}
    with pytest.raises(WeightsError, match=r"1 tensor\(s\) have another shape"):
        convert.load(name, grown, config)


@pytest.mark.parametrize("name", [name for name in TINY if name != "inception"])
def test_what_is_not_finite_is_named_in_both_directions(name, tmp_path):
    config, kind = TINY[name], format_of(name)
    params = random_params(config)
    exported = export_tensors(
        kind.table(config), params, network_of(config).counts(config)
    )
    constants = {rule.key for rule in kind.table(config) if isinstance(rule, Constant)}
    key = next(key for key in exported if key not in constants)
    broken = exported[key].copy()
    broken.flat[0] = np.nan
    with pytest.raises(WeightsError, match=r"1 NaN of .* numbers") as caught:
        convert.load(name, exported | {key: broken}, config)
    assert key in str(caught.value)
    next(leaves(params)).flat[0] = np.inf
    if name == "chameleon-meta":
        return  # its files need PyTorch
    with pytest.raises(WeightsError, match="1 infinite of"):
        convert.save(name, module_of(config), params, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_a_field_that_must_be_is_refused_and_a_free_one_is_not(name):
    """Each field of the configuration itself, changed alone."""
    kind = format_of(name)
    for config in kind.published:
        for field, held in kind.holdings[type(config)].items():
            value = getattr(config, field)
            if held.kind not in ("must", "free") or not isinstance(value, int | float):
                continue
            other = not value if isinstance(value, bool) else value * 2 or 1
            try:
                changed = dataclasses.replace(config, **{field: other})
            except ValueError:
                continue  # does not fit the other fields
            if held.kind == "free":
                assert not any(
                    text.startswith(f"{field}=")
                    for text in fields.check(name, changed, kind.holdings)
                )
            elif held.value(changed) != other:
                with pytest.raises(WeightsError, match=f"{field}={other}"):
                    fields.check(name, changed, kind.holdings)
