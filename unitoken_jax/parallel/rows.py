"""Which rows of a global batch each process feeds, and putting them on its devices."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from unitoken_jax.parallel import rules

Spec = Mapping[str, tuple[tuple[int, ...], np.dtype | type[np.generic]]]
"""Shape and type of every array of a batch, by name."""


def local_rows(size: int, mesh: Mesh) -> np.ndarray:
    """Rows of a batch of `size` that this process's devices hold.

    Processes whose devices differ only along tensor or sequence hold the same rows;
    on a torus a process's rows need not be neighbours.

    Returns:
        int64 [R], ascending, each once.
    """
    sharding = NamedSharding(mesh, rules.partition(("batch",), (size,), mesh, "rows"))
    places = sharding.addressable_devices_indices_map((size,)).values()
    slices = [index[0] for index in places if index is not None]
    rows = {row for part in slices for row in range(*part.indices(size))}
    return np.asarray(sorted(rows))


def abstract(spec: Spec, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes of a global batch with their shardings, as `place` has them."""
    shapes = {name: jax.ShapeDtypeStruct(*array) for name, array in spec.items()}
    places = rules.batch_shardings(shapes, mesh)
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[name])
        for name, x in shapes.items()
    }


def place(
    batch: Mapping[str, np.ndarray], size: int, rows: np.ndarray, mesh: Mesh
) -> dict[str, jax.Array]:
    """Puts a process's part of a batch on its devices.

    Args:
        batch: arrays [R, …], the rows `rows` of the batch.
        size: rows of the global batch.
        rows: as `local_rows` says.
        mesh: the mesh.

    Returns:
        Global arrays [size, …], divided along their rows.
    """
    shapes = {
        name: jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype)
        for name, array in batch.items()
    }
    shardings = rules.batch_shardings(shapes, mesh)

    def put(name: str) -> jax.Array:
        array, shape = batch[name], shapes[name].shape

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(size)
            first = int(np.searchsorted(rows, start))
            return array[first : first + stop - start]

        return jax.make_array_from_callback(shape, shardings[name], part)

    return {name: put(name) for name in batch}
