"""Rows of a table by id, with a gradient that is summed in float32."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(
    table: jax.Array, ids: jax.Array, prepare: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Looks up rows.

    A newline or the first codes of a codebook occur thousands of times in a batch;
    summed in bfloat16, all but the first few hundred of their gradients would be lost.

    Args:
        table: [V, D], float32.
        ids: integers of any shape, in [0, V).
        prepare: casts (and places) the whole table before rows are taken from it.

    Returns:
        [..., D] in the type that `prepare` gives.
    """
    return jnp.take(prepare(table), ids, axis=0, mode="clip")


def _forward(
    table: jax.Array, ids: jax.Array, prepare: Callable[[jax.Array], jax.Array]
) -> tuple:
    return lookup(table, ids, prepare), (ids, table)


def _backward(
    prepare: Callable[[jax.Array], jax.Array], saved: tuple, gradient: jax.Array
) -> tuple:
    del prepare
    ids, table = saved
    total = jnp.zeros(table.shape, jnp.float32)
    total = total.at[ids].add(gradient.astype(jnp.float32))
    return total.astype(table.dtype), None


lookup.defvjp(_forward, _backward)
