"""The kernel distance, by counting pairs."""

import itertools

import numpy as np
import pytest

from unitoken_jax.evaluate.statistics import kid


def test_kernel_distance_by_counting_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [
        np.mean([k(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)
    ]
    between = np.mean([k(a, b) for a in x for b in y])
    expected = sum(within) - 2 * between
    assert kid.distance(x, y) == pytest.approx(expected)
    found = kid.subset_distances(x, y, subsets=400, size=3, seed=0)
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 20)
