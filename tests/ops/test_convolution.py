"""Convolution and pooling against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.convolution import (
    average_pool,
    convolve,
    convolve_circular,
    depthwise,
)


def correlate(images, kernel, stride, padding):
    """The definition, position by position."""
    images = np.pad(images, ((0, 0), *padding, (0, 0)))
    size = kernel.shape[0]
    rows = range(0, images.shape[1] - size + 1, stride)
    columns = range(0, images.shape[2] - size + 1, stride)
    windows = np.stack(
        [[images[:, r : r + size, c : c + size] for c in columns] for r in rows]
    )
    return np.einsum("rcbijk,ijko->brco", windows, kernel)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_convolve_is_a_correlation_with_explicit_padding():
    images, kernel = draw(0, 2, 5, 7, 3), draw(1, 3, 3, 3, 4)
    bias = draw(2, 4)
    padding = ((0, 1), (0, 1))
    ours = convolve(images, kernel, bias, strides=(2, 2), padding=padding)
    expected = correlate(images, kernel, 2, padding) + bias
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_depthwise_channels_do_not_mix():
    images, kernel = draw(0, 1, 4, 4, 3), draw(1, 3, 3, 1, 3)
    whole = convolve(images, kernel, padding=((1, 1), (1, 1)), groups=3)
    for channel in range(3):
        part = np.s_[..., channel : channel + 1]
        expected = correlate(images[part], kernel[part], 1, ((1, 1), (1, 1)))
        np.testing.assert_allclose(whole[part], expected, atol=1e-5)


@pytest.mark.parametrize(("height", "stride"), [(6, 1), (6, 2), (5, 2)])
def test_depthwise_equals_the_grouped_convolution_and_its_gradients(height, stride):
    images, kernel = draw(0, 2, height, 8, 5), draw(1, 3, 3, 1, 5)

    def grouped(images, kernel):
        padding = ((1, 1), (1, 1))
        steps = (stride, stride)
        return convolve(images, kernel, strides=steps, padding=padding, groups=5)

    ours, ours_back = jax.vjp(lambda *x: depthwise(*x, stride), images, kernel)
    expected, back = jax.vjp(grouped, images, kernel)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    weight = draw(2, *expected.shape)
    for one, other in zip(ours_back(weight), back(weight), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_circular_convolution_wraps_around():
    inputs, kernel, bias = draw(0, 1, 6, 2), draw(1, 3, 2, 4), draw(2, 4)
    around = [np.roll(inputs, shift, axis=1) for shift in (1, 0, -1)]
    expected = sum(x @ k for x, k in zip(around, kernel, strict=True)) + bias
    ours = convolve_circular(inputs, kernel, bias)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_average_pool_does_not_count_its_padding():
    images = jnp.ones((1, 4, 4, 2))
    pooled = average_pool(images, (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_allclose(pooled, np.ones((1, 2, 2, 2)), rtol=1e-6)
    ramp = jnp.arange(4.0)[None, :, None, None]
    pooled = average_pool(ramp, (3, 1), (2, 1), ((1, 1), (0, 0)))
    np.testing.assert_allclose(pooled[0, :, 0, 0], [0.5, 2.0])


def test_average_pool_has_its_gradient():
    ramp = jnp.arange(4.0)[None, :, None, None]
    gradient = jax.grad(
        lambda x: average_pool(x, (3, 1), (2, 1), ((1, 1), (0, 0))).sum()
    )(ramp)
    np.testing.assert_allclose(gradient[0, :, 0, 0], [1 / 2, 5 / 6, 1 / 3, 1 / 3])
