"""Norms against float64, where a fast variance would lose the digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.normalization import group_norm, layer_norm, rms_norm


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


@pytest.mark.parametrize("shape", [(2, 5, 7, 12), (3, 11, 12)])
def test_equals_the_definition_far_from_zero(shape):
    x = 100 + jax.random.normal(jax.random.key(0), shape)
    scale, bias = jnp.linspace(0.5, 2, 12), jnp.linspace(-1, 1, 12)
    groups = np.asarray(x, np.float64).reshape(shape[0], -1, 4, 3)
    mean = groups.mean((1, 3), keepdims=True)
    variance = groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(shape)
    expected = expected * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(group_norm(x, scale, bias, 4, 1e-6), expected, atol=1e-4)


def test_keeps_half_precision():
    x = jnp.ones((1, 2, 4), jnp.bfloat16)
    result = group_norm(x, jnp.ones(4), jnp.full(4, 0.5), 2, 1e-6)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.astype(jnp.float32), 0.5)


def test_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="4 channels cannot use 3 groups"):
        group_norm(jnp.ones((1, 2, 4)), jnp.ones(4), jnp.ones(4), 3, 1e-6)
