"""The decoder: cache, padding, swin-norm, dropout, Llama, policies, published sizes."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import golden
from tests.models.random_weights import random_weights
from unitoken_jax.models.decoder import (
    CHAMELEON_34B,
    LLAMA_2_7B,
    Decoder,
    DecoderConfig,
)

SMALL = DecoderConfig(
    vocab_size=40,
    hidden=16,
    intermediate=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    model_parallel_size=2,
)
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 10), dtype=np.int32)
POSITIONS = np.broadcast_to(np.arange(10, dtype=np.int32), (2, 10))


def abstract(config):
    init = partial(Decoder(config).init, method="initialize")
    return jax.eval_shape(init, jax.random.key(0))["params"]


def forward(module, tokens, positions, segment_ids=None, deterministic=True):
    hidden = module(module.embed(tokens), positions, segment_ids, deterministic)
    return module.logits(hidden)


def prefill(module, tokens, positions, valid, *, room):
    hidden, cache = module.prefill(module.embed(tokens), positions, valid, room)
    return module.logits(hidden), cache


def decode(module, tokens, positions, valid, cache):
    hidden, cache = module.decode(module.embed(tokens), positions, valid, cache)
    return module.logits(hidden), cache


def apply(config, method, **static):
    run = partial(Decoder(config).apply, method=method, **static)
    return jax.jit(lambda params, *arguments: run({"params": params}, *arguments))


def test_decoding_with_a_cache_equals_the_uncached_forward():
    """Prompts of 5 and 3 tokens, padded on the left, then four tokens one by one."""
    params = random_weights(abstract(SMALL))
    whole = apply(SMALL, forward)(params, TOKENS, POSITIONS)
    shorter = apply(SMALL, forward)(params, TOKENS[1:, 2:], POSITIONS[1:, :8])
    valid = np.arange(5)[None] >= np.array([[0], [2]])
    positions = np.maximum(np.cumsum(valid, axis=1, dtype=np.int32) - 1, 0)
    step = apply(SMALL, decode)
    prompts = (TOKENS[:, :5], positions, valid)
    empty = Decoder(SMALL).init_cache(2, 9)
    appended, _ = step(params, *prompts, empty)
    logits, cache = apply(SMALL, prefill, room=4)(params, *prompts)
    for found in (appended, logits):
        np.testing.assert_allclose(found[0], whole[0, :5], atol=1e-5)
        np.testing.assert_allclose(found[1, 2:], shorter[0, :3], atol=1e-5)
    for t in range(5, 9):
        found, cache = step(
            params,
            TOKENS[:, t : t + 1],
            np.array([[t], [t - 2]], np.int32),
            np.ones((2, 1), bool),
            cache,
        )
        np.testing.assert_allclose(found[0, 0], whole[0, t], atol=1e-5)
        np.testing.assert_allclose(found[1, 0], shorter[0, t - 2], atol=1e-5)
    assert int(cache.index) == 9


def test_packed_segments_are_as_if_alone():
    params = random_weights(abstract(SMALL))
    run = apply(SMALL, forward)
    segments = np.array([[1] * 6 + [2] * 4, [1] * 10], np.int32)
    positions = POSITIONS.copy()
    positions[0, 6:] = np.arange(4)
    packed = run(params, TOKENS, positions, segments)
    alone = run(params, TOKENS[:1, 6:], POSITIONS[:1, :4])
    np.testing.assert_allclose(packed[0, 6:], alone[0], atol=1e-5)


def gradients(remat, **fields):
    config = dataclasses.replace(SMALL, dropout=0.3, remat=remat, **fields)

    def loss(params):
        logits = Decoder(config).apply(
            {"params": params},
            TOKENS,
            POSITIONS,
            deterministic=False,
            method=forward,
            rngs={"dropout": jax.random.key(5)},
        )
        return jnp.mean(jnp.square(logits))

    return jax.jit(jax.grad(loss))(random_weights(abstract(config)))


@pytest.fixture(scope="module")
def plain_gradients():
    return gradients("none")


@pytest.mark.parametrize(
    "remat", ["minimal", pytest.param("offload", marks=pytest.mark.slow)]
)
def test_policies_give_the_same_gradient_with_the_same_dropout(remat, plain_gradients):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
        gradients(remat),
        plain_gradients,
    )


@pytest.mark.parametrize(
    ("quantization", "alike", "size"), [("int8", 0.99, 0.05), ("fp8", 0.85, 0.25)]
)
def test_products_of_eight_bits_give_nearly_the_same_gradient(
    quantization, alike, size, plain_gradients
):
    with jax.numpy_dtype_promotion("standard"):  # which qwix relies on
        found = gradients("minimal", quantization=quantization)
    whole, plain = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, plain_gradients)
    )
    assert np.all(np.isfinite(whole))
    cosine = whole @ plain / np.linalg.norm(whole) / np.linalg.norm(plain)
    assert alike < cosine < 0.99999
    assert np.linalg.norm(whole) == pytest.approx(np.linalg.norm(plain), rel=size)


def rms(x, scale):
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def take(index, leaf):
    return leaf[index].astype(np.float64)


def numpy_decoder(config, params, tokens):
    """The decoder in float64, head by head, from the formulas of the papers."""
    width, length = config.head_dim, tokens.shape[1]
    turn = np.arange(length)[:, None] * config.rope_theta ** (
        -np.arange(0, width, 2) / width
    )
    turn = np.exp(1j * turn)
    hidden = params["embedding"]["embedding"].astype(np.float64)[tokens]

    def prepare(x, norm, head, heads):
        if config.qk_norm:
            row = head // (heads // config.model_parallel_size)
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
                x.var(-1, keepdims=True) + 1e-5
            ) * norm["scale"][row] + norm["bias"][row]
        pairs = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * turn
        return np.concatenate([pairs.real, pairs.imag], -1)

    for i in range(config.layers):
        layer = jax.tree.map(partial(take, i), params["layers"])
        maps, mlp = layer["attention"], layer["mlp"]

        def attend(x, maps=maps):
            change = 0
            for n in range(config.heads):
                k = n // (config.heads // config.kv_heads)
                query = prepare(
                    x @ maps["query"]["kernel"][:, n],
                    maps.get("query_norm"),
                    n,
                    config.heads,
                )
                key = prepare(
                    x @ maps["key"]["kernel"][:, k],
                    maps.get("key_norm"),
                    k,
                    config.kv_heads,
                )
                scores = query @ key.swapaxes(1, 2) / math.sqrt(width)
                scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                value = x @ maps["value"]["kernel"][:, k]
                change += weights @ value @ maps["out"]["kernel"][n]
            return change

        def feed(x, mlp=mlp):
            gate = x @ mlp["gate"]["kernel"]
            inner = gate / (1 + np.exp(-gate)) * (x @ mlp["up"]["kernel"])
            return inner @ mlp["down"]["kernel"]

        first, second = layer["attention_norm"]["scale"], layer["mlp_norm"]["scale"]
        if config.swin_norm:
            hidden = hidden + rms(attend(hidden), first)
            hidden = hidden + rms(feed(hidden), second)
        else:
            hidden = hidden + attend(rms(hidden, first))
            hidden = hidden + feed(rms(hidden, second))
    return rms(hidden, params["norm"]["scale"]) @ params["head"]["kernel"]


@pytest.mark.parametrize(
    "change",
    [{}, {"swin_norm": True}, {"qk_norm": False, "kv_heads": 1}],
    ids=["chameleon", "swin", "llama"],
)
def test_forward_against_the_formulas(change):
    config = dataclasses.replace(SMALL, **change)
    params = random_weights(abstract(config))
    logits = apply(config, forward)(params, TOKENS, POSITIONS)
    golden.assert_close(logits, numpy_decoder(config, params, TOKENS))


def test_dropout_is_residual_and_drawn_per_layer():
    config = dataclasses.replace(SMALL, dropout=0.5)
    params = random_weights(abstract(config))

    @jax.jit
    def run(key):
        return Decoder(config).apply(
            {"params": params},
            TOKENS,
            POSITIONS,
            deterministic=False,
            method=forward,
            rngs={"dropout": key},
        )

    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_llama_has_no_qk_norm():
    names = abstract(dataclasses.replace(SMALL, qk_norm=False))["layers"]["attention"]
    assert set(names) == {"query", "key", "value", "out"}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (DecoderConfig(), 7_013_158_912),
        (CHAMELEON_34B, 34_293_522_432),
        (LLAMA_2_7B, 6_738_415_616),
    ],
    ids=["7b", "34b", "llama"],
)
def test_published_sizes(config, parameters):
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(config))]
    assert sum(sizes) == parameters
