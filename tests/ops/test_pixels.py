"""Bytes to pixels and back, and patches in reading order."""

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.ops.pixels import normalize, patches, to_bytes


def test_normalize_is_the_published_processor_to_a_rounding():
    values = np.arange(256, dtype=np.uint8)
    rescaled = (values.astype(np.float64) * (1 / 255)).astype(np.float32)
    expected = (rescaled - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_allclose(jax.jit(normalize)(values), expected, atol=1.2e-7)


def test_bytes_survive_the_round_trip_up_to_truncation():
    values = np.arange(256, dtype=np.uint8)
    back = np.asarray(to_bytes(normalize(jnp.asarray(values)))).astype(int)
    assert set(values - back) <= {0, 1}
    assert to_bytes(jnp.array([-3.0, 3.0])).tolist() == [0, 255]


def test_bytes_are_rounded_in_the_published_ways():
    images = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    exact = (np.clip(images, -1, 1) + 1) * 127.5  # 0, 0, 63.75, 127.5, 191.25, 255
    assert to_bytes(images).tolist() == np.trunc(exact).tolist()
    assert to_bytes(images, "round").tolist() == np.round(exact).tolist()
    assert to_bytes(images, "llamagen").tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert to_bytes(jnp.array([jnp.nan]), "round").tolist() == [128]
    # Bytes survive being rounded.
    values = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(to_bytes(normalize(values), "round"), values)


def test_patches_read_row_by_row_and_drop_the_remainder():
    image = jnp.arange(5 * 7 * 3).reshape(1, 5, 7, 3)
    cut = patches(image, 2)
    assert cut.shape == (1, 6, 2, 2, 3)
    np.testing.assert_array_equal(cut[0, 4], image[0, 2:4, 2:4])
