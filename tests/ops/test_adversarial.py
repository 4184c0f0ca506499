"""Augmentations by what they must change and what they must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.ops.adversarial import augment, blur

OFF = {"shift": 0.0, "brightness": 0.0, "saturation": 0.0, "contrast": 0.0, "cut": 0.0}


def draw(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def augmented(images, **strengths):
    return jax.jit(lambda x: augment(jax.random.key(0), x, **OFF | strengths))(images)


def test_blur_has_gone_at_the_end_and_keeps_constants():
    images = draw(1, 16, 16, 2)
    np.testing.assert_array_equal(blur(images, 0.0), images)
    even = jnp.full((1, 16, 16, 1), 0.3)
    np.testing.assert_allclose(blur(even, 0.7), even, rtol=1e-5)
    gradient = jax.grad(lambda x: blur(x, 0.5).sum())(images)
    np.testing.assert_allclose(gradient.sum(), images.size, rtol=1e-4)


def test_nothing_changes_without_strength():
    images = draw(3, 8, 8, 3)
    np.testing.assert_allclose(augmented(images), images, atol=1e-6)


def test_translation_moves_whole_pixels_and_fills_with_zeros():
    images = np.ones((32, 16, 16, 1), np.float32)
    moved = np.asarray(augmented(images, shift=0.125))[..., 0]
    assert set(np.unique(moved)) == {0.0, 1.0}
    rows, columns = moved.any(2).sum(1), moved.any(1).sum(1)
    np.testing.assert_array_equal(moved.sum((1, 2)), rows * columns)
    assert rows.min() == columns.min() == 14
    assert len(set(rows)) > 1  # each sample by itself


def test_colors_change_around_their_means():
    images = draw(8, 8, 8, 3)
    brighter = augmented(images, brightness=0.5) - images
    assert np.ptp(brighter, (1, 2, 3)).max() < 1e-6
    assert 0.1 < np.abs(brighter).max() <= 0.5
    richer = augmented(images, saturation=1.0)
    np.testing.assert_allclose(richer.mean(3), images.mean(3), atol=1e-6)
    sharper = augmented(images, contrast=0.5)
    np.testing.assert_allclose(
        sharper.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6
    )
    ratio = sharper.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.5 <= ratio.min() < 0.95
    assert 1.05 < ratio.max() <= 1.5


def test_cutout_is_a_square_that_may_leave_the_image():
    images = np.ones((64, 20, 20, 1), np.float32)
    missing = 1 - np.asarray(augmented(images, cut=0.2))[..., 0]
    rows, columns = missing.any(2).sum(1), missing.any(1).sum(1)
    np.testing.assert_array_equal(missing.sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == 4
    assert rows.min() < 4


def test_augmentations_are_differentiable():
    images = draw(2, 8, 8, 3)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(augment(jax.random.key(1), x) ** 2)))(
        images
    )
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
