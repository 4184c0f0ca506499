"""Group normalization against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.group_norm import group_norm


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
