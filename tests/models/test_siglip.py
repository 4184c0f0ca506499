"""SigLIP's towers against formulas on the published names, and their options."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import golden
from tests.models.random_weights import random_weights
from unitoken_jax.convert.published import siglip as tables
from unitoken_jax.convert.table import export_tensors
from unitoken_jax.models import registry, siglip
from unitoken_jax.models.siglip import (
    Siglip,
    SiglipConfig,
    SiglipTextConfig,
    SiglipVision,
    SiglipVisionConfig,
)
from unitoken_jax.ops.positions import resize_grid

VISION = SiglipVisionConfig(hidden=12, mlp=20, layers=2, heads=3, image=9, patch=4)
TEXT = SiglipTextConfig(vocab_size=11, length=7, hidden=8, mlp=10, layers=2, heads=2)
SMALL = SiglipConfig(VISION, TEXT, embed=12)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 9, 9, 3)).astype(np.float32)
TEXTS = np.array(
    [[4, 5, 1, 1, 1, 1, 1], [3, 2, 6, 7, 8, 9, 10], [9, 9, 4, 1, 1, 1, 1]], np.int32
)


@pytest.fixture(scope="module")
def small():
    node = {"kind": "siglip", **dataclasses.asdict(SMALL)}
    params = random_weights(registry.abstract_params(registry.build(node)))
    weights = export_tensors(tables.table(SMALL), params, tables.counts(SMALL))
    return params, {key: value.astype(np.float64) for key, value in weights.items()}


def linear(weights, key, x):
    return x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]


def norm(weights, key, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * weights[f"{key}.weight"] + weights[f"{key}.bias"]


def mlp(weights, key, x):
    x = linear(weights, f"{key}.fc1", x)
    x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return linear(weights, f"{key}.fc2", x)


def heads(x, number):
    return x.reshape(*x.shape[:2], number, -1).swapaxes(1, 2)


def attend(query, key, value, number):
    query, key, value = (heads(x, number) for x in (query, key, value))
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    context = scores / scores.sum(-1, keepdims=True) @ value
    return context.swapaxes(1, 2).reshape(len(query), -1, query.shape[-1] * number)


def encoder(weights, key, x, config):
    for i in range(config.layers):
        layer = f"{key}.encoder.layers.{i}"
        y = norm(weights, f"{layer}.layer_norm1", x)
        parts = (linear(weights, f"{layer}.self_attn.{n}_proj", y) for n in "qkv")
        y = attend(*parts, config.heads)
        x = x + linear(weights, f"{layer}.self_attn.out_proj", y)
        x = x + mlp(weights, f"{layer}.mlp", norm(weights, f"{layer}.layer_norm2", x))
    return x


def image_tower(weights):
    """Tokens and pooled vectors, from the published names."""
    key = "vision_model"
    kernel = weights[f"{key}.embeddings.patch_embedding.weight"]
    grid = [
        [
            np.einsum("bhwc,ochw->bo", IMAGES[:, y : y + 4, x : x + 4], kernel)
            for x in (0, 4)
        ]
        for y in (0, 4)
    ]
    x = np.moveaxis(np.array(grid), 2, 0).reshape(3, 4, 12)
    x = x + weights[f"{key}.embeddings.patch_embedding.bias"]
    x = x + weights[f"{key}.embeddings.position_embedding.weight"]
    tokens = norm(weights, f"{key}.post_layernorm", encoder(weights, key, x, VISION))
    packed = f"{key}.head.attention.in_proj"
    kernels = np.split(weights[f"{packed}_weight"], 3)
    biases = np.split(weights[f"{packed}_bias"], 3)
    probe = np.broadcast_to(weights[f"{key}.head.probe"], (3, 1, 12))
    parts = (
        source @ kernel.T + bias
        for source, kernel, bias in zip(
            (probe, tokens, tokens), kernels, biases, strict=True
        )
    )
    x = attend(*parts, VISION.heads)
    x = linear(weights, f"{key}.head.attention.out_proj", x)
    x = x + mlp(weights, f"{key}.head.mlp", norm(weights, f"{key}.head.layernorm", x))
    return tokens, x[:, 0]


def text_tower(weights, texts):
    key = "text_model"
    x = weights[f"{key}.embeddings.token_embedding.weight"][texts]
    x = x + weights[f"{key}.embeddings.position_embedding.weight"][: texts.shape[1]]
    x = norm(weights, f"{key}.final_layer_norm", encoder(weights, key, x, TEXT))
    return linear(weights, f"{key}.head", x[:, -1])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def encode(model, params, inputs, method):
    run = jax.jit(partial(model.apply, method=method))
    return run({"params": params}, inputs)


def test_image_tower(small):
    params, weights = small
    output = jax.jit(SiglipVision(VISION).apply)({"params": params["vision"]}, IMAGES)
    tokens, pooled = image_tower(weights)
    golden.assert_close(output["tokens"], tokens)
    golden.assert_close(output["pooled"], pooled)


def test_text_tower_pools_the_last_position_and_sees_padding(small):
    params, weights = small
    output = encode(Siglip(SMALL), params, TEXTS, "encode_text")
    golden.assert_close(output, unit(text_tower(weights, TEXTS)))


def test_hidden_padding_makes_texts_independent_of_their_length(small):
    params, weights = small
    text = dataclasses.replace(TEXT, mask_padding=True)
    model = Siglip(dataclasses.replace(SMALL, text=text))
    output = encode(model, params, TEXTS, "encode_text")
    for row, length in zip(range(3), (2, 7, 3), strict=True):
        alone = text_tower(weights, TEXTS[row : row + 1, :length])
        golden.assert_close(output[row], unit(alone)[0])


def test_loss_is_the_papers(small):
    params, weights = small
    batch = {
        "image": np.random.default_rng(1).integers(0, 256, (3, 9, 9, 3), np.uint8),
        "text": TEXTS,
    }
    step = jax.jit(partial(siglip.loss, Siglip(SMALL)))
    total, metrics = step(params, batch, jax.random.key(0))
    pictures = batch["image"] / np.float32(127.5) - 1
    images = encode(Siglip(SMALL), params, pictures, "encode_image")
    similarity = np.asarray(images, np.float64) @ unit(text_tower(weights, TEXTS)).T
    logits = np.exp(weights["logit_scale"]) * similarity + weights["logit_bias"]
    expected = np.logaddexp(0, -(2 * np.eye(3) - 1) * logits).sum() / 3
    golden.assert_close(total, expected)
    own = np.mean(similarity.argmax(1) == np.arange(3))
    assert float(metrics["accuracy"]) == pytest.approx(own)


def test_other_resolutions_interpolate_the_positions(small):
    """A tower whose table was resized beforehand gives the same."""
    params, _ = small
    images = np.random.default_rng(2).uniform(-1, 1, (1, 12, 12, 3)).astype(np.float32)
    found = jax.jit(SiglipVision(VISION).apply)({"params": params["vision"]}, images)
    table = params["vision"]["position_embedding"]
    resized = {
        **params["vision"],
        "position_embedding": resize_grid(jnp.asarray(table), (2, 2), (3, 3)),
    }
    larger = SiglipVision(dataclasses.replace(VISION, image=12))
    expected = jax.jit(larger.apply)({"params": resized}, images)
    np.testing.assert_allclose(found["tokens"], expected["tokens"], atol=1e-6)


def test_misfits_are_sentences(small):
    params, _ = small
    with pytest.raises(ValueError, match="texts of 8 tokens exceed"):
        Siglip(SMALL).apply(
            {"params": params}, np.zeros((1, 8), np.int32), method="encode_text"
        )
    with pytest.raises(ValueError, match=r"embed=8 must equal vision\.hidden=12"):
        SiglipConfig(VISION, TEXT, embed=8)


def test_published_sizes():
    params = registry.abstract_params(registry.build({"kind": "siglip"}))
    sizes = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params[name]))
        for name in params
    }
    assert sizes == {
        "vision": 428_225_600,
        "text": 449_734_896,
        "logit_scale": 1,
        "logit_bias": 1,
    }
