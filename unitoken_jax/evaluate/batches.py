"""Examples in batches of one size, so that everything compiles once."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np


def batches(arrays: Any, size: int) -> Iterator[tuple[Any, int]]:
    """Cut arrays into batches along their first axis; the last one is filled up.

    Args:
        arrays: A tree of arrays [N, ...], all of the same N.
        size: Examples a batch.

    Yields:
        The batch, a tree of arrays [size, ...], and how many of its examples count;
        the rest repeats the last example.
    """
    count = len(jax.tree.leaves(arrays)[0])
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        yield jax.tree.map(lambda a, i=index: a[i], arrays), min(size, count - start)


def spread(count: int, wanted: int) -> Sequence[int]:
    """Choose `wanted` indices (fewer if there are fewer) evenly out of `count`."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()]
