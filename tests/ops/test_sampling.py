"""Sampling: guidance, masks, top-k, top-p, temperature and their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unitoken_jax.ops import sampling

LOGITS = hnp.arrays(np.float32, (2, 7), elements=st.floats(-8, 8, width=16))


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@given(LOGITS, LOGITS)
@settings(max_examples=20, deadline=None)
def test_guidance_is_linear_between_its_ends(conditional, unconditional):
    c, u = jnp.asarray(conditional), jnp.asarray(unconditional)
    np.testing.assert_array_equal(sampling.guide(c, u, 0.0), u)
    np.testing.assert_allclose(sampling.guide(c, u, 1.0), c, atol=2e-6)
    np.testing.assert_allclose(
        sampling.guide(c, u, 3.0), unconditional + 3 * (conditional - unconditional)
    )
    np.testing.assert_array_equal(sampling.guide(c, c, 5.5), c)


@given(LOGITS, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_top_k_keeps_the_largest_and_every_tie(logits, k):
    kept = np.asarray(sampling.keep_top_k(jnp.asarray(logits), k))
    for row, before in zip(kept, logits, strict=True):
        threshold = np.sort(before)[::-1][k - 1] if 0 < k < 7 else -np.inf
        np.testing.assert_array_equal(row > -np.inf, before >= threshold)
        np.testing.assert_array_equal(row[row > -np.inf], before[before >= threshold])


def test_top_k_ties_at_the_threshold_stay():
    kept = sampling.keep_top_k(jnp.array([[3.0, 1.0, 2.0, 2.0, 2.0]]), 2)
    np.testing.assert_array_equal(np.isfinite(kept), [[True, False, True, True, True]])


@given(LOGITS, st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_the_smallest_sufficient_set(logits, p):
    kept = np.isfinite(sampling.keep_top_p(jnp.asarray(logits), p))
    probability = np.exp(logits.astype(np.float64))
    probability /= probability.sum(-1, keepdims=True)
    for stays, mass in zip(kept, probability, strict=True):
        assert stays[np.argmax(mass)]
        assert mass[stays].sum() >= p - 1e-5
        # Without its least likely members the set no longer reaches p.
        if stays.sum() > 1:
            rest = stays & (mass > mass[stays].min() * (1 + 1e-6))
            assert mass[rest].sum() < p + 1e-5


@given(LOGITS, hnp.arrays(np.bool_, (2, 7)), st.integers(0, 8), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_drawn_tokens_are_allowed(logits, allowed, top_k, seed):
    allowed[:, 3] = True
    tokens = sampling.next_token(
        keys(2, seed),
        jnp.asarray(logits),
        jnp.asarray(allowed),
        unconditional=jnp.asarray(logits[::-1].copy()),
        guidance=3.0,
        top_k=top_k,
        top_p=0.9,
        temperature=0.7,
    )
    assert tokens.dtype == jnp.int32
    assert allowed[np.arange(2), np.asarray(tokens)].all()


def test_guidance_comes_before_the_mask_and_the_mask_before_top_k():
    # Token 0 wins unguided, 1 wins guided but is masked, 2 is next; were top-k taken
    # before the mask only token 1 would be left and nothing could be drawn.
    conditional = jnp.array([[2.0, 1.0, 0.0, -9.0]])
    unconditional = jnp.array([[2.0, -3.0, -2.0, -9.0]])
    allowed = jnp.array([True, False, True, True])
    token = sampling.next_token(
        keys(1),
        conditional,
        allowed,
        unconditional=unconditional,
        guidance=3.0,
        top_k=1,
    )
    assert token.tolist() == [2]


def test_temperature_zero_is_greedy_and_a_key_fixes_the_draw():
    logits = jax.random.normal(jax.random.key(1), (64, 11))
    greedy = sampling.sample(keys(64), logits, 0.0)
    np.testing.assert_array_equal(greedy, np.argmax(logits, -1))
    drawn = sampling.sample(keys(64), logits, 1.0)
    np.testing.assert_array_equal(drawn, sampling.sample(keys(64), logits, 1.0))
    assert (np.asarray(drawn) != np.asarray(greedy)).any()
    # A row alone draws what it draws in company.
    np.testing.assert_array_equal(
        sampling.sample(keys(64)[5:6], logits[5:6]), drawn[5:6]
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_softmax(temperature):
    logits = jnp.array([0.0, 1.0, 2.0, -jnp.inf])
    count = 20_000
    rows = jnp.broadcast_to(logits, (count, 4))
    tokens = jax.jit(sampling.sample)(keys(count), rows, temperature)
    frequency = np.bincount(np.asarray(tokens), minlength=4) / count
    expected = jax.nn.softmax(logits / temperature)
    np.testing.assert_allclose(frequency, expected, atol=0.015)


def test_top_p_acts_on_the_tempered_distribution():
    # At temperature 1 the first token holds 0.73 of the mass and top-p 0.8 keeps two;
    # at temperature 0.5 it holds 0.88 and stays alone.
    logits = jnp.tile(jnp.array([[1.0, 0.0]]), (200, 1))
    everything = jnp.ones(2, bool)

    def draw(temperature: float) -> set[int]:
        tokens = sampling.next_token(
            keys(200), logits, everything, top_p=0.8, temperature=temperature
        )
        return set(tokens.tolist())

    assert draw(1.0) == {0, 1}
    assert draw(0.5) == {0}
