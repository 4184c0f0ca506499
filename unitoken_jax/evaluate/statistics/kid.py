"""Kernel distance between two sets of features, with Inception's the KID.

arXiv 1801.01401: the squared maximum mean discrepancy under the kernel
(x·y / D + 1)³, unbiased, so that it may be negative and suits few pictures.
"""

import numpy as np


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased estimate from features [N, D] and [M, D].

    Raises:
        ValueError: One side has fewer than two features.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a kernel distance needs at least two pictures a side")
    first, second = (np.asarray(x, np.float64) for x in (first, second))

    def within(x: np.ndarray) -> float:
        gram = _kernel(x, x)
        return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))

    return float(within(first) + within(second) - 2 * _kernel(first, second).mean())


def subset_distances(
    first: np.ndarray, second: np.ndarray, *, subsets: int, size: int, seed: int
) -> np.ndarray:
    """Distances between random subsets, whose mean is the published number.

    The subsets are those of torch-fidelity, so that the numbers are too.

    Args:
        first: Features [N, D], of the generated pictures.
        second: Features [M, D], of the real ones.
        subsets: How many pairs of subsets.
        size: Features in each, at most as many as there are.
        seed: Of the choice.

    Returns:
        float64 [subsets].

    Raises:
        ValueError: One side has fewer than two features.
    """
    size = min(size, len(first), len(second))
    rng = np.random.RandomState(seed)

    def some(x: np.ndarray) -> np.ndarray:
        return x[rng.choice(len(x), size, replace=False)]

    return np.array([distance(some(first), some(second)) for _ in range(subsets)])


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3
