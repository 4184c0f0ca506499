"""UniTok's multimodal LLM: golden numbers, packed or not, decoding, sizes."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.packing import shift_labels
from tests.models import golden
from unitoken_jax.convert.published import unitok_mllm as tables
from unitoken_jax.convert.table import expected_shapes, export_tensors, import_tensors
from unitoken_jax.models import unitok_mllm
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.unitok_mllm import UniTokMllm, UniTokMllmConfig

CASE = "unitok_mllm_tiny"
PLACEHOLDER = -200  # an image, in the published ids
SIZE = 16  # tokens of an image


def published_config():
    values = golden.settings(CASE)
    codebooks = values["num_codebooks"]
    return UniTokMllmConfig(
        decoder=DecoderConfig(
            vocab_size=values["vocab_size"],
            hidden=values["hidden_size"],
            intermediate=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            kv_heads=values["num_attention_heads"],
            head_dim=values["hidden_size"] // values["num_attention_heads"],
            norm_eps=1e-6,  # the default of the published class, not Llama-2's
            qk_norm=False,
            remat="full",
        ),
        codebooks=codebooks,
        codes=values["codebook_vocab"] // codebooks,
        code_width=values["vocab_width"] // codebooks,
        projection=values["projection_width"],
        projection_heads=values["projection_heads"],
        loss_chunk=10,
        code_chunk=5,
    )


def abstract(config):
    init = partial(UniTokMllm(config).init, method="initialize")
    return jax.eval_shape(init, jax.random.key(0))["params"]


@pytest.fixture(scope="module")
def published():
    config = published_config()
    weights = golden.tensors(CASE, "weights")
    params = import_tensors(
        tables.table(config), weights, abstract(config), tables.counts(config)
    )
    return UniTokMllm(config), params


def samples():
    """Of each sample: tokens, targets, slots, its codes, places that draw."""
    stored = golden.tensors(CASE, "activations")
    for number, padded in enumerate(stored["input_ids"]):
        ids = padded[stored["attention_mask"][number]].astype(np.int32)
        mark = np.flatnonzero(ids == PLACEHOLDER)
        if len(mark):
            (at,) = mark
            tokens = np.concatenate([ids[:at], np.zeros(SIZE, np.int32), ids[at + 1 :]])
        else:
            at, tokens = 0, ids
        labels = stored["merged_labels"][number, : len(tokens)]
        labels = np.where(labels == -100, -1, labels).astype(np.int32)
        slots = np.full(len(tokens), -1, np.int32)
        slots[at : at + SIZE * len(mark)] = np.arange(SIZE * len(mark))
        drawn = np.arange(at - 1, at + SIZE - 1)
        codes = stored["images"][number].astype(np.int32).T  # [S, K]
        is_drawn = stored["data_types"][number] == 1
        yield (
            tokens,
            shift_labels(labels),
            slots,
            codes[None][: len(mark)],
            drawn if is_drawn else drawn[:0],
        )


def packed(rows, length, images):
    """A batch of rows of samples, and where each sample went."""
    blank = np.zeros((len(rows), length), np.int32)
    codebooks = golden.settings(CASE)["num_codebooks"]
    batch = {
        "tokens": blank.copy(),
        "segment_ids": blank.copy(),
        "positions": blank.copy(),
        "targets": blank - 1,
        "feature_index": blank - 1,
        "codes": np.zeros((len(rows), images, SIZE, codebooks), np.int32),
        "image_target_positions": np.full((len(rows), images * SIZE), -1, np.int32),
    }
    all_samples, places = list(samples()), {}
    for row, numbers in enumerate(rows):
        start = seen = 0
        for segment, number in enumerate(numbers, 1):
            tokens, targets, slots, codes, draws = all_samples[number]
            place = slice(start, start + len(tokens))
            places[number] = (row, place)
            batch["tokens"][row, place] = tokens
            batch["segment_ids"][row, place] = segment
            batch["positions"][row, place] = np.arange(len(tokens))
            batch["targets"][row, place] = targets
            index = np.where(slots < 0, -1, slots + SIZE * seen)
            batch["feature_index"][row, place] = index
            batch["codes"][row, seen : seen + len(codes)] = codes
            places_of_draws = SIZE * seen + np.arange(len(draws))
            batch["image_target_positions"][row, places_of_draws] = draws + start
            start, seen = place.stop, seen + len(codes)
    return batch, places


def test_forward_is_the_published_one(published):
    model, params = published
    stored = golden.tensors(CASE, "activations")
    batch, places = packed([[0], [1], [2], [3]], 29, 1)

    def run(module):
        features = module.embed_images(batch["codes"])
        embeddings = module.embed(batch["tokens"], batch["feature_index"], features)
        return embeddings, module.logits(module(batch))

    embeddings, logits = jax.jit(partial(model.apply, method=run))({"params": params})
    for number, (row, place) in places.items():
        golden.assert_close(embeddings[row, place], stored["inputs_embeds"][row, place])
        golden.assert_close(logits[row, place], stored["text_logits"][number, place])


def test_loss_and_gradients_are_the_published_ones_when_packed(published):
    """Two samples a row; `tests/train/test_generators.py` divides it over devices."""
    model, params = published
    stored = golden.tensors(CASE, "activations")
    batch, _ = packed([[3, 0], [2, 1]], 56, 2)
    run = jax.value_and_grad(partial(unitok_mllm.loss, model), has_aux=True)
    run = partial(jax.jit(run), rng=jax.random.key(0))
    (total, metrics), gradients = run(params, batch=batch)
    golden.assert_close(total, stored["loss"])
    codes = 2 * SIZE * model.config.codebooks
    labels = int(np.sum(stored["merged_labels"][:, 1:] >= 0))
    metrics = jax.tree.map(float, metrics)
    assert metrics["image_weight"] == codes
    assert metrics["text_weight"] == labels
    parts = labels * metrics["text_loss"] + codes * metrics["image_loss"]
    parts += 5e-5 * codes * metrics["image_z"]
    np.testing.assert_allclose(total, parts / (codes + labels), rtol=1e-5)
    config = model.config
    found = export_tensors(tables.table(config), gradients, tables.counts(config))
    expected = {k[5:]: v for k, v in stored.items() if k.startswith("grad.")}
    constant = {k for k in found if k.endswith(("vocab_usage", "zero_k_bias"))}
    assert not any(found.pop(key).any() for key in constant)
    golden.assert_gradients(found, expected)


def test_drawing_token_by_token_equals_training(published):
    """Embedder, decoder and depth head with caches give the states of whole rows."""
    model, params = published
    batch, _ = packed([[0], [3]], 26, 1)
    codebooks = model.config.codebooks
    boi = batch["image_target_positions"][:, 0]

    def whole(module):
        features = module.embed_images(batch["codes"])
        hidden = module(batch)
        places = batch["image_target_positions"][..., None]
        state = jnp.take_along_axis(hidden, places, axis=1)
        states = module.depth(state, batch["codes"][:, 0])
        return features, module.depth.logits(states)

    def prompt(module):
        """Prompts padded on the left, up to and with BOI."""
        length = int(boi.max()) + 1
        tokens = np.zeros((2, length), np.int32)
        valid = np.zeros((2, length), bool)
        for row, last in enumerate(boi):
            tokens[row, length - 1 - last :] = batch["tokens"][row, : last + 1]
            valid[row, length - 1 - last :] = True
        positions = np.maximum(np.cumsum(valid, 1, dtype=np.int32) - 1, 0)
        hidden, cache = module.decoder.prefill(
            module.embed(tokens), positions, valid, SIZE
        )
        return hidden[:, -1], cache

    def token(module, state, codes, position, caches):
        cache, seen = caches
        depths, logits, inputs = module.init_depth_cache(2), [], state
        for depth in range(codebooks):
            at = jnp.asarray(depth)
            found, depths = module.decode_depth(inputs, depths)
            logits.append(found)
            if depth + 1 < codebooks:
                inputs = module.embed_depth(codes[:, depth], at)
        feature, seen = module.embed_drawn(codes[:, None], seen)
        valid = jnp.ones((2, 1), bool)
        hidden, cache = module.decoder.decode(feature, position[:, None], valid, cache)
        return feature, jnp.stack(logits, 1), hidden[:, 0], (cache, seen)

    def compiled(method):
        run = jax.jit(partial(model.apply, method=method))
        return partial(run, {"params": params})

    features, logits = compiled(whole)()
    state, cache = compiled(prompt)()
    step = compiled(token)
    caches = (cache, model.init_code_cache(2, SIZE))
    for t in range(SIZE):
        codes, position = batch["codes"][:, 0, t], boi + 1 + t
        feature, found, state, caches = step(state, codes, position, caches)
        np.testing.assert_allclose(feature[:, 0], features[:, t], atol=1e-5)
        np.testing.assert_allclose(found, logits[:, t], atol=1e-5)


def test_text_alone(published):
    """Without an image the loss is that of the text, and finite without any label."""
    model, params = published
    batch, _ = packed([[2]], 12, 0)
    run = jax.jit(partial(unitok_mllm.loss, model))
    total, metrics = run(params, batch, jax.random.key(0))
    assert float(total) == float(metrics["text_loss"]) > 0
    assert not metrics["image_weight"]
    batch["targets"][:] = -1
    assert not run(params, batch, jax.random.key(0))[0]


def test_half_precision_keeps_parameters_and_loss_in_float32(published):
    config = published[0].config
    half = dataclasses.replace(config.decoder, dtype="bfloat16")
    model = UniTokMllm(dataclasses.replace(config, decoder=half))
    batch, _ = packed([[3, 0], [2, 1]], 56, 2)
    run = jax.value_and_grad(partial(unitok_mllm.loss, model), has_aux=True)
    output = jax.eval_shape(run, published[1], batch, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {np.dtype("float32")}
    hidden = jax.eval_shape(model.apply, {"params": published[1]}, batch)
    assert hidden.dtype == jnp.bfloat16


def test_published_size():
    config = UniTokMllmConfig()
    shapes = expected_shapes(
        tables.table(config), abstract(config), tables.counts(config)
    )
    assert shapes["ar_head.linear_head.weight"] == (4096, 4096)
    assert shapes["model.multi_embedder.mm_projector.1.weight"] == (4096, 1024)
    buffers = ("vocab_usage", "zero_k_bias")
    by_part: dict[str, int] = {}
    for key, shape in shapes.items():
        part = key.split(".")[1 if key.startswith("model.multi") else 0]
        if not key.endswith(buffers):
            by_part[part] = by_part.get(part, 0) + math.prod(shape)
    llama = by_part.pop("model") + by_part.pop("lm_head")
    assert llama == 6_738_415_616
    layer = 4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096
    assert by_part == {
        # Codebooks, the tokenizer's widening projection, norm and two maps.
        "multi_embedder": 262_144
        + 7_615_744
        + 2 * 1024
        + (1024 + 1) * 4096
        + (4096 + 1) * 4096,
        # Three blocks, norm, the map with its bias, seven tables.
        "ar_head": 3 * layer + 4096 + (4096 + 1) * 4096 + 7 * 4096**2,
    }
