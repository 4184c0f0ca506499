"""Norms against float64, where a fast variance would lose the digits."""

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.ops.normalization import layer_norm, rms_norm


def test_layer_norm_is_exact_far_from_zero():
    x = 1000.0 + jax.random.normal(jax.random.key(0), (3, 64))
    scale, bias = jnp.linspace(0.5, 2.0, 64), jnp.linspace(-1.0, 1.0, 64)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(
        wide.var(-1, keepdims=True) + 1e-5
    ) * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(layer_norm(x, scale, bias, 1e-5), expected, atol=2e-4)


def test_rms_norm_divides_by_the_root_mean_square():
    x = jnp.array([[3.0, 4.0]], jnp.bfloat16)
    normed = rms_norm(x, jnp.array([1.0, 2.0]), 0.0)
    root = np.sqrt(12.5)
    np.testing.assert_allclose(normed, [[3 / root, 8 / root]], rtol=1e-6)
    assert normed.dtype == jnp.float32
