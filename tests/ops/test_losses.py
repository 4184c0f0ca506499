"""Chunked objectives against their plain forms, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.losses import mean, score_tokens, sigmoid_loss, sum_scores


def draw(batch=2, length=13, width=6, vocab=19):
    keys = jax.random.split(jax.random.key(1), 3)
    hidden = jax.random.normal(keys[0], (batch, length, width))
    kernel = jax.random.normal(keys[1], (width, vocab))
    targets = jax.random.randint(keys[2], (batch, length), -1, vocab)
    return hidden, kernel, targets


def plain(hidden, kernel, targets, excluded=None):
    logits = hidden @ kernel
    if excluded is not None:
        logits = jnp.where(excluded, jnp.finfo(jnp.float32).min, logits)
    counted = targets >= 0
    logs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logs, jnp.maximum(targets, 0)[..., None], 2)[..., 0]
    count = jnp.sum(counted.astype(jnp.float32))
    entropy = -jnp.sum(jnp.where(counted, chosen, 0.0)) / count
    z = jax.nn.logsumexp(logits, axis=-1) ** 2
    return entropy + 0.1 * jnp.sum(jnp.where(counted, z, 0.0)) / count


def chunked(hidden, kernel, targets, excluded=None, chunk=4):
    scores = score_tokens(hidden, kernel, targets, chunk=chunk, excluded=excluded)
    sums = sum_scores(scores, targets >= 0)
    return mean(sums.cross_entropy, sums.count) + 0.1 * mean(sums.z, sums.count)


def gradients_of(loss, arguments=(0, 1)):
    return jax.jit(jax.value_and_grad(loss, arguments))


@pytest.mark.parametrize("chunk", [1, 4, 10, 19, 64])
def test_chunks_equal_the_plain_form(chunk):
    hidden, kernel, targets = draw()
    expected = gradients_of(plain)(hidden, kernel, targets)
    found = gradients_of(partial(chunked, chunk=chunk))(hidden, kernel, targets)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


def test_the_least_of_equal_logits_is_the_answer():
    """As with argmax, in whichever chunks they stand."""
    hidden = jnp.ones((1, 1, 1))
    kernel = jnp.asarray([[0.0, 3.0, 1.0, 3.0, 3.0, 2.0]])
    for target in range(6):
        targets = jnp.asarray([[target]])
        for chunk in (1, 2, 4, 6):
            scores = score_tokens(hidden, kernel, targets, chunk=chunk)
            assert float(scores.correct[0, 0]) == (target == 1)


def test_excluded_ids_get_no_probability_and_no_gradient():
    hidden, kernel, targets = draw()
    excluded = jnp.arange(19) >= 15
    targets = jnp.where(targets >= 15, -1, targets)
    _, expected = gradients_of(plain)(hidden, kernel, targets, excluded)
    _, found = gradients_of(chunked)(hidden, kernel, targets, excluded)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
    assert np.all(np.asarray(found[1][:, 15:]) == 0)


def test_uncounted_positions_never_spoil_the_gradient():
    """A logit that overflows exp at a position without loss stays out of the sum."""
    hidden, kernel, _ = draw()
    hidden = hidden.at[:, 3].mul(1e4)
    targets = jnp.full((2, 13), -1).at[:, 5].set(2)
    _, gradients = gradients_of(chunked)(hidden, kernel, targets)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert np.all(np.asarray(gradients[0][:, 3]) == 0)


def test_correct_counts_the_largest_logit():
    hidden, kernel, _ = draw()
    best = jnp.argmax(hidden @ kernel, axis=-1)
    targets = best.at[0, :4].set(-1).at[1, :2].set((best[1, :2] + 1) % 19)
    sums = jax.jit(
        lambda: sum_scores(score_tokens(hidden, kernel, targets, chunk=5), targets >= 0)
    )()
    assert (float(sums.count), float(sums.correct)) == (22.0, 20.0)


def test_the_logits_of_all_positions_are_never_held():
    hidden, kernel, targets = draw(batch=2, length=32, vocab=50)
    text = str(jax.make_jaxpr(jax.grad(chunked, (0, 1)))(hidden, kernel, targets))
    assert "f32[2,32,1,4]" in text  # 13 chunks of four ids, two of them padding
    assert "f32[2,32,50]" not in text
    assert "f32[13,2,32,1,4]" not in text  # nor stacked by the scan


def test_half_precision_keeps_a_float32_kernel_gradient():
    hidden, kernel, targets = draw()
    half = hidden.astype(jnp.bfloat16)
    _, gradients = gradients_of(chunked)(half, kernel, targets)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]
    _, exact = gradients_of(chunked)(hidden, kernel, targets)
    np.testing.assert_allclose(gradients[1], exact[1], atol=0.02)


def sigmoid_plain(images, texts, log_scale, bias):
    similarity = images @ texts.T
    sign = 2 * jnp.eye(len(images)) - 1
    logits = jnp.exp(log_scale) * similarity + bias
    own = jnp.argmax(similarity, axis=1) == jnp.arange(len(images))
    loss = -jnp.sum(jax.nn.log_sigmoid(sign * logits)) / len(images)
    return loss, jnp.mean(own.astype(jnp.float32))


@pytest.mark.parametrize("chunk", [2, 1024])
def test_sigmoid_loss_in_chunks(chunk):
    keys = jax.random.split(jax.random.key(2))
    images = jax.random.normal(keys[0], (5, 8))
    texts = images + 3 * jax.random.normal(keys[1], (5, 8))
    arguments = (images, texts, jnp.float32(0.7), jnp.float32(-1.5))

    def gradients(loss):
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(*arguments)

    expected = gradients(sigmoid_plain)
    assert 0 < expected[0][1] < 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        gradients(partial(sigmoid_loss, chunk=chunk)),
        expected,
    )
