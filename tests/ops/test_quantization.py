"""Quantizers against brute force, gradients by hand, statistics against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.ops.normalization import l2_normalize
from unitoken_jax.ops.quantization import (
    Quantizer,
    count_codes,
    dead_codes,
    effective_rank,
    entropy,
    nearest,
    perplexity,
    published_usage,
    revival_loss,
    usage,
)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), chunk=st.sampled_from([0, 1, 3, 8, 50]))
def test_nearest_is_the_smallest_distance_for_every_chunk(seed, chunk):
    latents, books = draw(seed, 2, 8, 3, 4), draw(seed + 100, 3, 16, 4)
    distance = np.square(latents[..., None, :] - books).sum(-1)
    codes = nearest(latents, books, chunk)
    np.testing.assert_array_equal(codes, distance.argmin(-1))
    assert codes.dtype == jnp.int32


def test_the_first_of_equal_codes_wins():
    books = np.zeros((1, 4, 2), np.float32)
    assert (nearest(draw(0, 1, 5, 1, 2), books) == 0).all()


def test_chunks_bound_what_is_held():
    """No array of the compiled search has an entry for every token and code."""
    latents, books = jnp.zeros((2, 64, 1, 4)), jnp.zeros((1, 512, 4))
    compiled = jax.jit(nearest, static_argnums=2).lower(latents, books, 4).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 64 * 512 * 4 / 4


def test_split_is_independent_single_quantizers():
    latents, books = draw(0, 2, 5, 12), draw(1, 3, 16, 4)
    whole = Quantizer()(latents, books)
    parts = [
        Quantizer()(latents[..., 4 * i : 4 * i + 4], books[i : i + 1]) for i in range(3)
    ]
    vectors = np.concatenate([part.vectors for part in parts], -1)
    np.testing.assert_array_equal(whole.vectors, vectors)
    codes = np.concatenate([part.codes for part in parts], -1)
    np.testing.assert_array_equal(whole.codes, codes)
    loss = np.mean([part.loss for part in parts])
    np.testing.assert_allclose(whole.loss, loss, rtol=1e-6)


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("structure", ["split", "residual"])
def test_lookup_gives_the_quantized_vectors(structure, normal):
    width = 12 if structure == "split" else 4
    latents, books = draw(0, 2, 5, width), draw(1, 3, 16, 4)
    quantizer = Quantizer(structure=structure, normalize=normal)
    result = quantizer(latents, books)
    assert result.codes.shape == (2, 5, 3)
    np.testing.assert_allclose(
        quantizer.lookup(result.codes, books), result.vectors, atol=1e-6
    )
    np.testing.assert_array_equal(quantizer.codes(latents, books), result.codes)


def test_residual_stages_come_nearer():
    latents, books = draw(0, 4, 16, 4), draw(1, 6, 64, 4)
    books[:, 0] = 0  # a stage that cannot help may add nothing
    errors = [
        np.square(Quantizer("residual")(latents, books[:n]).vectors - latents).sum()
        for n in range(1, 7)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


def test_normalized_codes_are_those_of_largest_cosine():
    latents, books = draw(0, 2, 5, 4), draw(1, 1, 16, 4)
    unit = latents / np.linalg.norm(latents, axis=-1, keepdims=True)
    rows = books / np.linalg.norm(books, axis=-1, keepdims=True)
    result = Quantizer(normalize=True)(latents, books)
    expected = np.einsum("bte,ve->btv", unit, rows[0]).argmax(-1)
    np.testing.assert_array_equal(result.codes[..., 0], expected)
    length = np.linalg.norm(result.vectors, axis=-1)
    np.testing.assert_allclose(length, 1, rtol=1e-6)


def test_straight_through_passes_the_gradient_to_the_latents():
    latents, books = draw(0, 2, 3, 4), draw(1, 1, 8, 4)
    weight = draw(2, 2, 3, 4)

    def value(latents, books):
        return jnp.sum(weight * Quantizer()(latents, books).vectors)

    by_latents, by_books = jax.grad(value, argnums=(0, 1))(latents, books)
    np.testing.assert_array_equal(by_latents, weight)
    np.testing.assert_array_equal(by_books, 0)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_two_terms_of_the_loss_pull_where_they_should(legacy):
    latents, books = np.full((1, 1, 1), 3, np.float32), np.ones((1, 1, 1), np.float32)
    quantizer = Quantizer(beta=0.25, legacy=legacy)

    def loss(latents, books):
        return quantizer(latents, books).loss

    value, (by_latents, by_books) = jax.value_and_grad(loss, (0, 1))(latents, books)
    assert value == 5  # (1 + 0.25) · (3 − 1)²
    slow, fast = (by_books, by_latents) if legacy else (by_latents, by_books)
    assert abs(float(slow.item())) == 1
    assert abs(float(fast.item())) == 4


def test_a_zero_latent_has_no_direction_and_no_gradient():
    zero = jnp.zeros((1, 4))
    np.testing.assert_array_equal(l2_normalize(zero), 0)
    gradient = jax.grad(lambda x: l2_normalize(x).sum())(zero)
    assert np.isfinite(gradient).all()


def test_half_precision_latents_are_quantized_in_float32():
    result = Quantizer()(draw(0, 1, 2, 4).astype(jnp.bfloat16), draw(1, 1, 8, 4))
    assert result.vectors.dtype == result.loss.dtype == jnp.float32


def test_codes_beyond_the_codebook_are_not_a_number():
    vectors = Quantizer().lookup(np.array([[[0], [8]]]), draw(1, 1, 8, 4))
    assert np.isfinite(vectors[0, 0]).all()
    assert np.isnan(vectors[0, 1]).all()


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="latents of 12 channels, not 10"):
        Quantizer()(draw(0, 1, 1, 10), draw(1, 3, 8, 4))
    with pytest.raises(ValueError, match="4 channels for latents of 10"):
        Quantizer("residual")(draw(0, 1, 1, 10), draw(1, 3, 8, 4))


def test_statistics_of_use():
    codes = np.array([[0, 2], [0, 2], [1, 2], [3, 2]])
    counts = count_codes(codes, 4)
    np.testing.assert_array_equal(counts, [[2, 1, 0, 1], [0, 0, 4, 0]])
    np.testing.assert_allclose(usage(counts), [0.75, 0.25])
    np.testing.assert_array_equal(dead_codes(counts), [1, 3])
    np.testing.assert_allclose(entropy(counts), [1.5 * np.log(2), 0], atol=1e-6)
    np.testing.assert_allclose(perplexity(counts), [2**1.5, 1], rtol=1e-6)
    np.testing.assert_allclose(published_usage(counts), [75, 25])


def test_published_usage_counts_shares_above_a_hundredth_of_the_even_one():
    counts = jnp.array([[10_000.0, 10.0, 30.0, 0.0]])
    np.testing.assert_allclose(published_usage(counts), [50])


def test_revival_moves_unused_codes_to_their_nearest_latent_only():
    latents = np.array([[0.0, 0.0], [4.0, 0.0]], np.float32)
    book = np.array([[0.1, 0.0], [6.0, 0.0]], np.float32)
    value, gradient = jax.value_and_grad(revival_loss, 1)(
        latents, book, np.array([2, 0])
    )
    assert value == 1  # (6 − 4)² over 2 codes of 2 channels
    np.testing.assert_allclose(gradient, [[0, 0], [1, 0]])
    by_latents = jax.grad(revival_loss)(latents, book, np.array([2, 0]))
    np.testing.assert_array_equal(by_latents, 0)


@pytest.mark.parametrize("spread", [(1.0,), (1.0, 1.0), (0.8, 0.2), (1.0,) * 5])
def test_latents_span_as_many_directions_as_they_were_given(spread):
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0][: len(spread)]
    drawn = rng.normal(size=(20_000, len(spread))) * np.sqrt(spread)
    latents = jnp.asarray(3.0 + drawn @ axes, jnp.float32).reshape(4, -1, 6)
    expected = sum(spread) ** 2 / sum(share**2 for share in spread)
    assert effective_rank(latents) == pytest.approx(expected, rel=0.02)


def test_equal_latents_span_nothing_and_the_rank_has_no_gradient():
    assert effective_rank(jnp.ones((2, 3, 4))) == 0
    latents = jnp.arange(24.0).reshape(2, 3, 4)
    assert not jax.grad(effective_rank)(latents).any()
