"""Work in batches of few sizes, so that little is compiled, results in their order."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import jax
import numpy as np
from jax.sharding import Mesh

from unitoken_jax.config import check_seed
from unitoken_jax.parallel import rules

Progress = Callable[[int], object]


def seed_numbers(seeds: Sequence[int]) -> np.ndarray:
    """Return seeds as uint32 [B].

    Raises:
        ConfigError: one is not in [0, 2**32).
    """
    return np.asarray([check_seed(int(seed), "seed") for seed in seeds], np.uint32)


def run_batched(
    run: Callable[[np.ndarray], jax.Array | np.ndarray],
    groups: Sequence[Sequence[int]],
    size: int,
    mesh: Mesh | None,
    progress: Progress = lambda done: None,
) -> np.ndarray:
    """Run over groups of indices in batches of few sizes, results in their order.

    The batches of a group have the size given, or if the group is smaller the power of
    two that holds it, so that memory goes with what is asked. A batch that is not full
    repeats its last index, so that nothing is compiled for it alone.

    Args:
        run: Indices [n] → results [n, …].
        groups: Indices that may share a batch.
        size: At most how many; rounded up to what the devices share equally.
        mesh: The devices to compute on; None is the default one.
        progress: Called with the number of results since the last call.

    Returns:
        The results in the order of the indices.
    """
    shards = _shards(mesh)
    results: dict[int, np.ndarray] = {}
    for group in groups:
        holding = 1 << max(0, len(group) - 1).bit_length()
        width = bucket(min(size, holding), shards)
        for start in range(0, len(group), width):
            chosen = np.asarray(group[start : start + width])
            filled = np.pad(chosen, (0, width - len(chosen)), mode="edge")
            # Around compiled programs only: eager ones would spread as well.
            with jax.set_mesh(mesh) if mesh else nullcontext():
                output = np.asarray(run(filled))
            results |= {int(i): output[n] for n, i in enumerate(chosen)}
            progress(len(chosen))
    return np.stack([results[i] for i in sorted(results)])


def bucket(length: int, multiple: int) -> int:
    """Round a length up to a multiple, so that few lengths are ever compiled."""
    return -(-length // multiple) * multiple


def alike(kinds: Iterable[object]) -> list[list[int]]:
    """Group indices whose kind is equal, in the order of first appearance."""
    groups: dict[object, list[int]] = {}
    for i, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(i)
    return list(groups.values())


def _shards(mesh: Mesh | None) -> int:
    """Into how many parts the devices divide a batch."""
    if mesh is None:
        return 1
    abstract = jax.ShapeDtypeStruct((mesh.size,), np.int32)
    shard = rules.batch_shardings(abstract, mesh).shard_shape(abstract.shape)
    return mesh.size // shard[0]
