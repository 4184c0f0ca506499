"""LlamaGen's sampler with caches against teacher forcing over whole images."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.random_weights import random_system
from unitoken_jax.generate.samplers.llamagen import draw, log_likelihood
from unitoken_jax.generate.sampling import SamplingParams
from unitoken_jax.models import llamagen, registry
from unitoken_jax.ops import sampling

NODE = {
    "kind": "llamagen",
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "multiple_of": 8,
    "classes": 3,
    "null_class": True,
    "codebooks": 3,
    "codes": 11,
    "side": 2,
    "depth_layers": 2,
    "loss_chunk": 3,
}
LABELS, SEEDS = np.array([2, 0], np.int32), np.array([5, 6], np.uint32)
CHOICES = {"top_k": 7, "top_p": 0.9, "temperature": 1.7}
GREEDY = SamplingParams(guidance=1.0, temperature=0.0)


@pytest.fixture(scope="module")
def system():
    return random_system(NODE)


@pytest.fixture(scope="module")
def logits(system):
    """Logits [B, L, K, V] of whole images, from one pass without any cache."""
    model, params = system

    @jax.jit
    def run(labels, codes):
        return model.apply(
            {"params": params}, method=lambda m: m.logits(m(labels, codes))
        )

    return run


def test_greedy_drawing_is_the_argmax_of_teacher_forcing(system, logits):
    codes = draw(*system, LABELS, SEEDS, GREEDY)
    assert codes.shape == (2, 4, 3)
    expected = np.argmax(logits(LABELS, codes), -1)
    np.testing.assert_array_equal(codes, expected)
    assert len(np.unique(codes)) > 3


def test_one_codebook_is_drawn_and_trained():
    """Its depth head has no code to read."""
    model, params = random_system(NODE | {"codebooks": 1})
    codes = draw(
        model, params, LABELS, SEEDS, dataclasses.replace(GREEDY, guidance=2.0)
    )
    assert codes.shape == (2, 4, 1)
    codes = draw(model, params, LABELS, SEEDS, GREEDY)
    scores = model.apply({"params": params}, LABELS, codes, method=_logits)
    np.testing.assert_array_equal(codes, np.argmax(scores, -1))
    batch = {"codes": jnp.asarray(codes), "label": jnp.asarray(LABELS)}
    assert np.isfinite(
        llamagen.loss(model, params, batch, jax.random.key(0))[0]  # pyright: ignore[reportArgumentType]
    )


def _logits(model, labels, codes):
    return model.logits(model(labels, codes))


def uncached(logits, guidance, interval):
    """Draw as `draw` does, running the whole image for every code."""
    free = np.full_like(LABELS, 3)
    codes = np.zeros((2, 4, 3), np.int32)

    @jax.jit
    def choose(given, at):
        keys = jax.vmap(jax.random.fold_in, (0, None))(
            jax.vmap(jax.random.key)(SEEDS), at
        )
        return sampling.next_token(keys, given, jnp.ones(11, bool), **CHOICES)

    for place in range(4):
        for depth in range(3):
            given = logits(LABELS, codes)[:, place, depth]
            # The published loop: the first token always, then steps 0 … interval.
            if guidance != 1 and (
                place == 0 or interval == -1 or place - 1 <= interval
            ):
                unconditional = logits(free, codes)[:, place, depth]
                given = sampling.guide(given, unconditional, guidance)
            codes[:, place, depth] = choose(given, place * 3 + depth)
    return codes


@pytest.mark.parametrize(
    ("guidance", "interval"), [(1.0, -1), (3.0, -1), (3.0, 0), (3.0, 1)]
)
def test_drawing_equals_uncached_drawing(system, logits, guidance, interval):
    sampling = SamplingParams(guidance, interval, **CHOICES)
    found = draw(*system, LABELS, SEEDS, sampling)
    np.testing.assert_array_equal(found, uncached(logits, guidance, interval))


def test_a_image_depends_on_its_class_and_seed_only(system):
    guided = SamplingParams(guidance=2.0)
    together = draw(*system, LABELS, SEEDS, guided)
    swapped = draw(*system, LABELS[::-1], SEEDS[::-1], guided)
    np.testing.assert_array_equal(together, swapped[::-1])
    other = draw(*system, LABELS, SEEDS + 9, guided)
    assert (np.asarray(other) != together).any()


def test_likelihood_is_the_loss(system):
    model, params = system
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 11, (2, 4, 3)).astype(np.int32)
    found = log_likelihood(model, params, LABELS, codes)
    quiet = registry.build(NODE | {"dropout": 0.0, "token_dropout": 0.0}).module
    run = jax.jit(partial(llamagen.loss, quiet))
    for row in range(2):
        batch = {"label": LABELS[row : row + 1], "codes": codes[row : row + 1]}
        loss, _ = run(params, batch, jax.random.key(0))
        np.testing.assert_allclose(found[row], -float(loss) * 12, rtol=1e-5)
