"""Rows of a table by id, with a gradient that is summed in float32."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


class Layout(NamedTuple):
    """How a table [V, D] and the ids looked up in it are divided over a mesh."""

    table: PartitionSpec
    ids: PartitionSpec

    @property
    def scatters(self) -> bool:
        """Whether sums over the ids can be scattered into the parts of the table.

        V must be whole, and what divides D must divide the ids too.
        """
        rows_over, width_over = (_axes(entry) for entry in self.table)
        return not rows_over and set(width_over) <= set(self.ids_over)

    @property
    def ids_over(self) -> tuple[str, ...]:
        """Mesh axes that divide the ids."""
        return tuple(chain.from_iterable(_axes(entry) for entry in self.ids))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def lookup(
    table: jax.Array,
    ids: jax.Array,
    prepare: Callable[[jax.Array], jax.Array],
    layout: Layout | None = None,
) -> jax.Array:
    """Looks up rows.

    A newline or the first codes of a codebook occur thousands of times in a batch;
    summed in bfloat16, all but the first few hundred of their gradients would be lost.

    Args:
        table: [V, D], float32.
        ids: integers of any shape, in [0, V).
        prepare: casts (and places) the whole table before rows are taken from it.
        layout: how both are divided, if it `scatters`: every device then receives the
            gradient of its own part only. Without it the compiler sums as it likes:
            whole tables on every device, unless V is divided.

    Returns:
        [..., D] in the type that `prepare` gives.
    """
    del layout
    return jnp.take(prepare(table), ids, axis=0, mode="clip")


def _forward(
    table: jax.Array,
    ids: jax.Array,
    prepare: Callable[[jax.Array], jax.Array],
    layout: Layout | None,
) -> tuple:
    return lookup(table, ids, prepare, layout), (ids, table)


def _backward(
    prepare: Callable[[jax.Array], jax.Array],
    layout: Layout | None,
    saved: tuple,
    gradient: jax.Array,
) -> tuple:
    del prepare
    ids, table = saved
    if layout is None:
        total = _sum_rows(table.shape, ids, gradient)
    else:
        total = _sum_parts(layout, table.shape, ids, gradient)
    return total.astype(table.dtype), None


lookup.defvjp(_forward, _backward)


def _sum_rows(shape: tuple[int, ...], ids: jax.Array, gradient: jax.Array) -> jax.Array:
    """Adds rows [..., D] to a table of zeros."""
    total = jnp.zeros(shape, jnp.float32)
    return total.at[ids].add(gradient.astype(jnp.float32))


def _sum_parts(
    layout: Layout, shape: tuple[int, ...], ids: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Adds what each device looked up, then scatters the sums over what divides D."""
    width_over = _axes(layout.table[1])
    left = tuple(axis for axis in layout.ids_over if axis not in width_over)

    def add(ids: jax.Array, gradient: jax.Array) -> jax.Array:
        total = _sum_rows(shape, ids, gradient)  # [V, D]
        if width_over:
            total = jax.lax.psum_scatter(
                total, width_over, scatter_dimension=1, tiled=True
            )  # [V, D / width_over]
        return jax.lax.psum(total, left) if left else total

    return jax.shard_map(
        add,
        in_specs=(layout.ids, PartitionSpec(*layout.ids, None)),
        out_specs=layout.table,
        check_vma=False,
    )(ids, gradient)


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()
