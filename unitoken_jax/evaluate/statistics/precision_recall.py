"""Improved precision and recall (arXiv 1904.06991), by nearest neighbours.

A set of features stands for the union of balls around its members, each of which just
reaches the member's k-th nearest neighbour. Precision is the share of generated
pictures within the balls of the real ones, recall the reverse.
"""

from collections.abc import Iterator

import numpy as np

_CHUNK = 1024  # rows whose distances to all others are held at once


def covered(samples: np.ndarray, members: np.ndarray, neighbors: int = 3) -> np.ndarray:
    """Tell which samples lie in the union of balls of the members.

    Args:
        samples: Features [N, D].
        members: Features [M, D].
        neighbors: k, the neighbour that a ball reaches.

    Returns:
        bool [N].

    Raises:
        ValueError: There are not more than k members.
    """
    if len(members) <= neighbors:
        raise ValueError(
            f"{len(members)} pictures have no {neighbors}. nearest neighbour; take "
            "more pictures or fewer neighbours"
        )
    members = np.asarray(members, np.float64)
    # A member is its own nearest neighbour, at distance 0.
    parts = [
        np.partition(squares, neighbors, axis=1)[:, neighbors]
        for squares in _squares(members, members)
    ]
    radii = np.concatenate(parts)  # [M], squared
    samples = np.asarray(samples, np.float64)
    return np.concatenate(
        [(squares <= radii).any(1) for squares in _squares(samples, members)]
    )


def _squares(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances [rows, M] of `first` to `second`, some rows at a time."""
    center = second.mean(0)  # short vectors cancel less
    first, second = first - center, second - center
    lengths = np.square(second).sum(1)
    for start in range(0, len(first), _CHUNK):
        part = first[start : start + _CHUNK]
        own = np.square(part).sum(1, keepdims=True)
        squares = own + lengths - 2 * part @ second.T
        yield np.maximum(squares, 0)
