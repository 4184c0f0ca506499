"""LlamaGen with several codebooks: golden numbers, decoding, dropouts, sizes."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models import golden
from tests.models.random_weights import random_weights
from unitoken_jax.convert.published import llamagen as tables
from unitoken_jax.convert.table import expected_shapes, export_tensors, import_tensors
from unitoken_jax.models import llamagen
from unitoken_jax.models.llamagen import LlamaGen, LlamaGenConfig, published

CASE = "llamagen_tiny"
SMALL = LlamaGenConfig(
    hidden=16,
    layers=2,
    heads=2,
    multiple_of=8,
    classes=3,
    null_class=True,
    codebooks=3,
    codes=7,
    side=2,
    depth_layers=2,
)


def abstract(config):
    init = partial(LlamaGen(config).init, method="initialize")
    return jax.eval_shape(init, jax.random.key(0))["params"]


def published_config():
    values = golden.settings(CASE)
    return LlamaGenConfig(
        hidden=values["dim"],
        layers=values["n_layer"],
        heads=values["n_head"],
        multiple_of=values["multiple_of"],
        classes=values["num_classes"],
        codebooks=values["num_codebooks"],
        codes=values["vocab_size"] // values["num_codebooks"],
        side=math.isqrt(values["block_size"]),
        depth_layers=values["n_output_layer"],
        token_dropout=0.0,
        dropout=0.0,
        loss_chunk=5,
        remat="full",
    )


@pytest.fixture(scope="module")
def reference():
    config = published_config()
    weights = golden.tensors(CASE, "weights")
    params = import_tensors(
        tables.table(config), weights, abstract(config), tables.counts(config)
    )
    stored = golden.tensors(CASE, "activations")
    batch = {
        "label": stored["classes"].astype(np.int32),
        "codes": stored["codes"].astype(np.int32).swapaxes(1, 2),
    }
    return LlamaGen(config), params, batch, stored


def test_logits_loss_and_gradients_are_the_published_ones(reference):
    model, params, batch, stored = reference

    @jax.jit
    def run(params):
        objective = partial(llamagen.loss, model, batch=batch, rng=jax.random.key(0))
        logits = model.apply(
            {"params": params},
            method=lambda m: m.logits(m(batch["label"], batch["codes"])),
        )
        return logits, jax.value_and_grad(objective, has_aux=True)(params)

    logits, ((total, metrics), gradients) = run(params)
    golden.assert_close(logits, np.moveaxis(stored["logits"], 1, 2))
    golden.assert_close(total, stored["loss"])
    assert float(metrics["weight"]) == batch["codes"].size
    found = np.argmax(np.moveaxis(stored["logits"], 1, 2), -1)
    assert metrics["accuracy"] == pytest.approx(np.mean(found == batch["codes"]))
    ours = export_tensors(
        tables.table(model.config), gradients, tables.counts(model.config)
    )
    expected = {k[5:]: v for k, v in stored.items() if k.startswith("grad.")}
    golden.assert_gradients(ours, expected)


def test_decoding_code_by_code_equals_teacher_forcing(reference):
    model, params, batch, stored = reference
    expected = np.moveaxis(stored["logits"], 1, 2)
    rows, length, codebooks = batch["codes"].shape

    def token(params, inputs, codes, cache):
        def run(module):
            state, kept = module.decode(inputs, cache)
            depths = module.init_depth_cache(rows)
            logits = []
            for depth in range(codebooks):
                at = jnp.asarray(depth)
                found, depths = module.decode_depth(state, depths)
                logits.append(found)
                if depth + 1 < codebooks:
                    state = module.embed_depth(codes[:, depth], at)
            return jnp.stack(logits, 1), module.embed_codes(codes[:, None]), kept

        return model.apply({"params": params}, method=run)

    step = jax.jit(token)
    cache = model.init_cache(rows)
    inputs = model.apply({"params": params}, batch["label"], method="embed_class")
    for t in range(length):
        logits, inputs, cache = step(params, inputs, batch["codes"][:, t], cache)
        golden.assert_close(logits, expected[:, t])


def published_shapes(config):
    return expected_shapes(
        tables.table(config), abstract(config), tables.counts(config)
    )


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("B", 164_376_064),
        ("L", 427_857_920),
        ("XL", 897_921_536),
        ("XXL", 1_574_566_912),
        ("XXXL", 4_294_132_736),
    ],
)
def test_published_sizes(size, parameters):
    shapes = published_shapes(published(size))
    assert sum(map(math.prod, shapes.values())) == parameters
    assert shapes["layers.0.feed_forward.w1.weight"][0] % 256 == 0


@pytest.mark.parametrize("null_class", [False, True])
def test_the_class_table_has_a_row_for_no_class(null_class):
    shapes = published_shapes(dataclasses.replace(SMALL, null_class=null_class))
    rows, _ = shapes["cls_embedding.embedding_table.weight"]
    assert rows == 3 + null_class


def small(**fields):
    config = dataclasses.replace(SMALL, **fields)
    rng = np.random.default_rng(1)
    batch = {
        "label": rng.integers(0, 3, 4, np.int32),
        "codes": rng.integers(0, 7, (4, 4, 3), np.int32),
    }
    run = jax.jit(partial(llamagen.loss, LlamaGen(config)))
    return batch, lambda key, batch: run(
        random_weights(abstract(SMALL)), batch, jax.random.key(key)
    )[0]


def test_labels_are_dropped_for_the_null_class():
    """With all labels dropped the loss is that of the null class, whatever they are."""
    batch, run = small(class_dropout=1.0, dropout=0.0, token_dropout=0.0)
    other = batch | {"label": np.full(4, 3, np.int32)}
    assert run(0, batch) == run(1, other)
    batch, run = small(class_dropout=0.0, dropout=0.0, token_dropout=0.0)
    assert run(0, batch) == run(1, batch) != run(0, other)


@pytest.mark.parametrize("name", ["token_dropout", "dropout"])
def test_dropout_is_noise_of_the_step_key(name):
    batch, run = small(**{"token_dropout": 0.0, "dropout": 0.0} | {name: 0.5})
    assert run(0, batch) == run(0, batch) != run(1, batch)


def test_half_precision_keeps_parameters_and_loss_in_float32():
    config = dataclasses.replace(SMALL, dtype="bfloat16", class_dropout=0.5)
    model, params = LlamaGen(config), nn.unbox(abstract(config))
    batch = {
        "label": jax.ShapeDtypeStruct((2,), np.int32),
        "codes": jax.ShapeDtypeStruct((2, 4, 3), np.int32),
    }
    run = jax.value_and_grad(partial(llamagen.loss, model), has_aux=True)
    output = jax.eval_shape(run, params, batch, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {np.dtype("float32")}
    states = jax.eval_shape(model.apply, {"params": params}, *batch.values())
    assert states.dtype == jnp.bfloat16


def test_logits_start_at_zero():
    init = partial(LlamaGen(SMALL).init, method="initialize")
    head = jax.jit(lambda key: init(key)["params"]["depth"]["head"])(jax.random.key(0))
    assert not head["kernel"].value.any()
    assert not head["bias"].value.any()


def test_faults():
    with pytest.raises(ValueError, match="no size 'XXS'; choose one of B, L, XL"):
        published("XXS")
    with pytest.raises(ValueError, match="which needs null_class=True"):
        LlamaGenConfig(class_dropout=0.1)
    with pytest.raises(ValueError, match="width is a multiple of 4"):
        LlamaGenConfig(hidden=100, heads=3)
