"""Resizing against its definitions, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from unitoken_jax.ops import resize


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_double_nearest_repeats_pixels():
    images = draw(2, 3, 4, 5)
    expected = images.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(resize.double_nearest(images), expected)


def test_area_averages_the_pixels_each_one_touches():
    images = draw(1, 5, 7, 2)
    ours = resize.area(images, 3, 4)
    for row in range(3):
        for column in range(4):
            top, bottom = row * 5 // 3, -(-(row + 1) * 5 // 3)
            left, right = column * 7 // 4, -(-(column + 1) * 7 // 4)
            mean = images[:, top:bottom, left:right].mean((1, 2))
            np.testing.assert_allclose(ours[:, row, column], mean, rtol=1e-5, atol=1e-6)


def test_bicubic_keeps_a_ramp_inside():
    ramp = np.tile(np.arange(16, dtype=np.float32)[:, None, None], (1, 4, 1))[None]
    ours = resize.bicubic(ramp, 8, 4)[0, :, 0, 0]
    np.testing.assert_allclose(ours[2:-2], np.arange(8)[2:-2] * 2 + 0.5, atol=1e-5)


def test_bilinear_tensorflow_starts_at_the_corner():
    ramp = jnp.arange(4.0).reshape(1, 4, 1, 1)
    ours = resize.bilinear_tensorflow(ramp, 8, 1)[0, :, 0, 0]
    np.testing.assert_allclose(ours, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3], atol=1e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(5, 30), (30, 7)])
def test_antialiased_is_pillows_on_floats(method, sides):
    pixels = np.random.default_rng(0).uniform(0, 255, (17, 23)).astype(np.float32)
    height, width = sides
    kind = Image.Resampling[method.upper()]
    theirs = Image.fromarray(pixels).resize((width, height), kind)
    expected = np.clip(np.asarray(theirs), 0, 255)
    ours = resize.antialiased(jnp.asarray(pixels)[None, ..., None], *sides, method)
    np.testing.assert_allclose(ours[0, ..., 0], expected, atol=1e-2)


@pytest.mark.parametrize("key", [None, 0, 1, 2, 3])
def test_fit_multiple_averages_or_crops(key):
    images = jnp.asarray(draw(2, 9, 10, 1))
    key = None if key is None else jax.random.key(key)
    fitted = resize.fit_multiple(images, 4, key)
    assert fitted.shape == (2, 8, 8, 1)
    averaged = np.allclose(fitted, resize.area(images, 8, 8))
    crops = [
        np.array_equal(fitted, images[:, row : row + 8, column : column + 8])
        for row in range(2)
        for column in range(3)
    ]
    assert averaged or (key is not None and sum(crops) == 1)


def test_fit_multiple_flips_a_fair_coin():
    images = jnp.asarray(draw(1, 9, 9, 1))
    fit = jax.jit(jax.vmap(lambda key: resize.fit_multiple(images, 4, key)))
    fitted = fit(jax.random.split(jax.random.key(0), 64))
    averaged = np.isclose(fitted, resize.area(images, 8, 8)).all((1, 2, 3, 4))
    assert 16 < averaged.sum() < 48


def test_fit_multiple_leaves_or_interpolates_divisible_sides():
    images = jnp.asarray(draw(1, 8, 8, 1))
    assert resize.fit_multiple(images, 4, jax.random.key(0)) is images
    mixed = jnp.asarray(draw(1, 8, 9, 1))
    fitted = resize.fit_multiple(mixed, 4, jax.random.key(0))
    np.testing.assert_allclose(fitted, resize.bicubic(mixed, 8, 8), atol=1e-6)
