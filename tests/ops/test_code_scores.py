"""Scores of codes in chunks against all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.code_scores import code_logits, score_codes, sum_codes

RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((2, 5, 3, 4), np.float32)
KERNEL, BIAS = RNG.standard_normal((4, 6), np.float32), np.arange(6, dtype=np.float32)
TARGETS = RNG.integers(-1, 6, (2, 5, 3)).astype(np.int32)


def whole(hidden, kernel, bias):
    """Sums over the codes with a target, from all logits at once."""
    logits = code_logits(hidden, kernel, bias)
    real = TARGETS >= 0
    log_probability = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probability, TARGETS[..., None], -1)[..., 0]
    cross_entropy = -jnp.sum(jnp.where(real, chosen, 0.0))
    z = jnp.sum(jnp.where(real, jnp.square(jnp.max(logits, -1)), 0.0))
    return cross_entropy + 0.1 * z, jnp.sum((jnp.argmax(logits, -1) == TARGETS) & real)


@pytest.mark.parametrize("chunk", [2, 100])
def test_values_and_gradients_are_those_of_all_logits(chunk):
    def chunked(hidden, kernel, bias):
        scores = score_codes(hidden, kernel, bias, TARGETS, chunk=chunk)
        sums = sum_codes(scores, TARGETS)
        return sums.cross_entropy + 0.1 * sums.z, sums

    def run(function):
        both = jax.value_and_grad(function, argnums=(0, 1, 2), has_aux=True)
        return jax.jit(both)(HIDDEN, KERNEL, BIAS)

    (total, sums), gradients = run(chunked)
    (expected, correct), plain = run(whole)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert int(sums.correct) == int(correct)
    assert float(sums.count) == np.sum(TARGETS >= 0)
    assert sums.accuracy == pytest.approx(int(correct) / float(sums.count))
    for ours, theirs in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_nothing_to_score():
    nothing = np.full_like(TARGETS, -1)
    scores = score_codes(HIDDEN, KERNEL, BIAS, nothing)
    assert not any(np.any(part) for part in scores)
    assert float(sum_codes(scores, nothing).accuracy) == 0
