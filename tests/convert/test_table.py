"""The table engine: counters, stacks, checks in sentences, round trips."""

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn

from unitoken_jax.convert import layouts
from unitoken_jax.convert.table import (
    Constant,
    Ignored,
    Initial,
    Rule,
    expected_shapes,
    export_tensors,
    import_tensors,
    specs_of,
)
from unitoken_jax.convert.tensors import WeightsError

TABLE = (
    Rule("embed.weight", "decoder/embed"),
    Rule(
        "layers.{layer}.qkv.weight",
        ("decoder/layers/q", "decoder/layers/k"),
        layouts.split(layouts.HEADS_IN),
    ),
    Rule("layers.{layer}.up.{part}.weight", "decoder/layers/up", layouts.LINEAR),
    Rule("levels.{level}.conv.weight", "decoder/level_{level}/conv", layouts.CONV),
    Constant("layers.{layer}.zero", (3,), 0.0, like="decoder/embed"),
    Ignored("*.inv_freq", "computed"),
)
COUNTS = {"layer": 2, "part": 3, "level": (1, 3)}
SHAPES = {
    "decoder/embed": (7, 4),
    "decoder/layers/q": (2, 4, 2, 3),
    "decoder/layers/k": (2, 4, 1, 3),
    "decoder/layers/up": (2, 3, 4, 5),
    "decoder/level_1/conv": (3, 3, 2, 5),
    "decoder/level_3/conv": (1, 1, 2, 6),
}


def tree(make):
    result: dict = {}
    for path, shape in SHAPES.items():
        *parents, leaf = path.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = make(shape)
    return result


def abstract():
    return tree(lambda shape: jax.ShapeDtypeStruct(shape, np.float32))


def params(dtype=np.float32):
    rng = np.random.default_rng(0)
    return tree(lambda shape: rng.normal(size=shape).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_round_trip(dtype):
    exported = export_tensors(TABLE, params(dtype), COUNTS)
    shapes = {key: array.shape for key, array in exported.items()}
    assert shapes == expected_shapes(TABLE, abstract(), COUNTS)
    assert shapes["layers.1.qkv.weight"] == (9, 4)
    assert shapes["levels.3.conv.weight"] == (6, 2, 1, 1)
    assert exported["layers.0.zero"].dtype == dtype
    imported = import_tensors(TABLE, exported, abstract(), COUNTS)
    jax.tree.map(np.testing.assert_array_equal, imported, params(dtype))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(imported))


def test_what_the_files_lack_begins_at_its_number():
    table = (*TABLE[:-3], Initial("decoder/level_1/conv", 2.0, like="decoder/embed"))
    table += (Rule("conv.weight", "decoder/level_3/conv", layouts.CONV),)
    ours = params(ml_dtypes.bfloat16)
    ours["decoder"]["level_1"]["conv"][:] = 2
    exported = export_tensors(table, ours, COUNTS)
    assert not any("level_1" in key for key in exported)
    back = import_tensors(table, exported, abstract(), COUNTS)
    jax.tree.map(np.testing.assert_array_equal, back, ours)
    assert back["decoder"]["level_1"]["conv"].dtype == ml_dtypes.bfloat16
    ours["decoder"]["level_1"]["conv"][0, 0, 0, 0] = 3
    with pytest.raises(WeightsError, match=r"no place for decoder/level_1/conv.*2\.0"):
        export_tensors(table, ours, COUNTS)
    wrong = (*table, Initial("decoder/nothing", 0.0, like="decoder/embed"))
    with pytest.raises(WeightsError, match="decoder/nothing, which is not a parameter"):
        expected_shapes(wrong, abstract(), COUNTS)


def test_stacks_follow_the_counters_in_the_key():
    exported = export_tensors(TABLE, params(), COUNTS)
    up = params()["decoder"]["layers"]["up"]
    np.testing.assert_array_equal(exported["layers.1.up.2.weight"], up[1, 2].T)


def test_boxed_abstract_parameters():
    boxed = jax.tree.map(
        lambda leaf: nn.LogicallyPartitioned(leaf, (None,) * leaf.ndim), abstract()
    )
    assert specs_of(boxed) == specs_of(abstract())


def test_import_casts_when_asked():
    exported = export_tensors(TABLE, params(ml_dtypes.bfloat16), COUNTS)
    imported = import_tensors(TABLE, exported, abstract(), COUNTS, dtype=np.float32)
    assert imported["decoder"]["embed"].dtype == np.float32


def source():
    return export_tensors(TABLE, params(), COUNTS)


def refused(weights, *texts, table=TABLE, counts=COUNTS, shapes=None):
    with pytest.raises(WeightsError) as caught:
        import_tensors(table, weights, shapes or abstract(), counts)
    for text in texts:
        assert text in str(caught.value)


def test_missing_and_unexpected_keys_are_named():
    weights = source()
    del weights["layers.1.up.0.weight"]
    weights["rotary.inv_freq"] = np.zeros(3)
    refused(weights, "1 tensor(s) are missing: layers.1.up.0.weight")
    weights["layers.1.upp.0.weight"] = np.zeros(3)
    refused(
        weights,
        "not of this format: layers.1.upp.0.weight",
        "nearest name is 'layers.1.upp.0.weight'",
    )


def test_ignored_keys_are_dropped():
    weights = source() | {"rotary.inv_freq": np.zeros(3)}
    import_tensors(TABLE, weights, abstract(), COUNTS)


def test_a_common_prefix_is_recognized():
    weights = {f"module.{key}": array for key, array in source().items()}
    refused(weights, "carry the prefix 'module.'")


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda w: w.T, ("(5, 4)", "(4, 5)", "transposed")),
        (lambda w: w[:, :2], ("(5, 2)", "one part of 2 on axis 1")),
        (lambda w: w[:3, :3], ("another model size",)),
        (lambda w: w[:, :, None, None], ("the same numbers with other axes",)),
        (lambda w: np.zeros((50, 4)), ("another size or vocabulary",)),
    ],
)
def test_a_wrong_shape_names_key_shapes_and_cause(change, texts):
    weights = source()
    weights["layers.1.up.0.weight"] = change(weights["layers.1.up.0.weight"])
    refused(weights, "layers.1.up.0.weight should be (5, 4)", *texts)


def test_a_changed_constant_is_refused():
    weights = source()
    weights["layers.1.zero"] = np.ones(3, np.float32)
    refused(weights, "layers.1.zero should hold the constant 0.0")


def test_mixed_types_in_a_stack_are_refused():
    weights = source()
    key = "layers.1.up.0.weight"
    weights[key] = weights[key].astype(np.float16)
    refused(weights, "decoder/layers/up have the types float32 and float16")


def test_more_and_fewer_layers_than_the_model():
    refused(source(), "more of them than the model", counts=COUNTS | {"layer": 3})
    refused(source(), "more layers than the checkpoint", counts=COUNTS | {"layer": 1})


def test_tables_that_do_not_fit_the_model_are_refused():
    refused(source(), "no count", counts={"layer": 2, "part": 3})
    refused(source(), "filled by no rule", "decoder/embed", table=TABLE[1:])
    twice = (*TABLE, Rule("embed.weight", "decoder/embed"))
    refused(source(), "two rules of the table give the tensor embed", table=twice)
    again = (*TABLE, Rule("embedding", "decoder/embed"))
    refused(source(), "two rules of the table fill decoder/embed", table=again)
    typo = (*TABLE, Rule("other", "decoder/embedd"))
    refused(source(), "the nearest is decoder/embed", table=typo)


def test_constant_of_several_values():
    table = (Rule("w", "w"), Constant("scale", (1, 3, 1, 1), (1.0, 2.0, 3.0), like="w"))
    exported = export_tensors(table, {"w": np.zeros(2, np.float32)}, {})
    assert exported["scale"].shape == (1, 3, 1, 1)
    assert exported["scale"].ravel().tolist() == [1, 2, 3]
