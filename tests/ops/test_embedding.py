"""Lookups in half precision lose no gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.ops.embedding import lookup


def half(table):
    return table.astype(jnp.bfloat16)


def test_rows_in_the_prepared_type():
    table = jax.random.normal(jax.random.key(0), (5, 3))
    ids = jnp.array([[4, 0], [1, 4]])
    np.testing.assert_array_equal(lookup(table, ids, half), half(table)[ids])


def test_the_gradient_of_a_frequent_id_is_the_whole_sum():
    ids = jnp.zeros(3000, jnp.int32).at[7].set(2)
    gradient = jax.jit(
        jax.grad(lambda table: jnp.sum(lookup(table, ids, half).astype(jnp.float32)))
    )(jnp.ones((4, 2)))
    np.testing.assert_array_equal(gradient[:, 0], [2999.0, 0.0, 1.0, 0.0])
