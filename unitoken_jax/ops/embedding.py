"""Rows of a table by id, with a gradient that is summed in float32."""

import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

_LANES = 128  # of a TPU's vector registers


class Layout(NamedTuple):
    """How a table [V, D] and the ids looked up in it are divided over a mesh."""

    table: PartitionSpec
    ids: PartitionSpec

    @property
    def scatters(self) -> bool:
        """Whether sums over the ids can be scattered into the parts of the table.

        What divides V must not divide the ids, and what divides D must divide them too.
        """
        rows_over, width_over = (_axes(entry) for entry in self.table)
        ids_over = {axis for entry in self.ids for axis in _axes(entry)}
        return ids_over.isdisjoint(rows_over) and ids_over.issuperset(width_over)


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
            gradient of its own part only. Without it every device receives the whole.

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
    """Adds rows [..., D] to a table of zeros; ids beyond it are dropped."""
    total = jnp.zeros(shape, jnp.float32)
    return total.at[ids].add(gradient.astype(jnp.float32), mode="drop")


def _sum_parts(
    layout: Layout, shape: tuple[int, ...], ids: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Adds what each device looked up, then scatters the sums over what divides D."""
    mesh = jax.sharding.get_abstract_mesh()
    rows_over, width_over = (_axes(entry) for entry in layout.table)
    ids_over = chain.from_iterable(_axes(entry) for entry in layout.ids)
    left = tuple(axis for axis in ids_over if axis not in width_over)
    rows = shape[0] // math.prod(mesh.shape[axis] for axis in rows_over)
    parts = math.prod(mesh.shape[axis] for axis in width_over)

    def add(ids: jax.Array, gradient: jax.Array) -> jax.Array:
        if rows_over:
            ids = ids - rows * jax.lax.axis_index(rows_over)
            # Ids of the parts before this one would count from its end.
            ids = jnp.where(ids < 0, rows, ids)
        total = _sum_rows((rows, shape[1]), ids, gradient)  # [V / rows_over, D]
        scatter = partial(jax.lax.psum_scatter, axis_name=width_over)
        if parts > 1 and shape[1] // parts < _LANES and rows % parts == 0:
            # libtpu sums narrower columns whole, but scatters rows of any width.
            total = scatter(total.reshape(parts, -1, shape[1]))
            total = jax.lax.all_to_all(total, width_over, 1, 0, tiled=True)
        elif parts > 1:
            total = scatter(total, scatter_dimension=1, tiled=True)
        # [V / rows_over, D / width_over]
        return jax.lax.psum(total, left) if left else total

    return jax.shard_map(
        add,
        in_specs=(layout.ids, PartitionSpec(*layout.ids, None)),
        out_specs=layout.table,
        check_vma=False,
    )(ids, gradient)


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()
