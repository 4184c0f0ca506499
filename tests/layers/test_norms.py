"""QK-norm's shared rows and the types that norms give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.layers.norms import HeadNorm, LayerNorm, RMSNorm
from unitoken_jax.ops.normalization import layer_norm


def test_a_row_serves_its_shard_of_the_heads():
    x = jax.random.normal(jax.random.key(0), (1, 2, 6, 4))
    scale, bias = jax.random.normal(jax.random.key(1), (2, 2, 4))
    params = {"params": {"scale": scale, "bias": bias}}
    output = HeadNorm(rows=2).apply(params, x)
    for head in range(6):
        row = head // 3
        expected = layer_norm(x[:, :, head], scale[row], bias[row], 1e-5)
        np.testing.assert_allclose(output[:, :, head], expected, atol=1e-6)


def test_rows_must_divide_the_heads():
    with pytest.raises(ValueError, match="4 rows, which do not divide 6 heads"):
        HeadNorm(rows=4).init(jax.random.key(0), jnp.zeros((1, 1, 6, 4)))


def test_norms_give_back_the_type_they_got_but_qk_norm_float32():
    x = jnp.ones((1, 1, 2, 4), jnp.bfloat16)
    for layer, dtype in (
        (LayerNorm(1e-6), jnp.bfloat16),
        (RMSNorm(1e-5), jnp.bfloat16),
        (HeadNorm(1), jnp.float32),
    ):
        output, _ = layer.init_with_output(jax.random.key(0), x)
        assert output.dtype == dtype
