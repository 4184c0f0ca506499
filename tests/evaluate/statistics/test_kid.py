"""The kernel distance, by counting pairs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


FEATURES = st.integers(0, 999).map(
    lambda seed: np.random.default_rng(seed).normal(size=(2, 6, 4))
)


@settings(deadline=None, max_examples=25)
@given(FEATURES, st.permutations(range(6)))
def test_the_distance_has_no_order_and_no_direction(features, order):
    first, second = features
    distance = kid.distance(first, second)
    assert kid.distance(second, first) == pytest.approx(distance)
    assert kid.distance(first[list(order)], second) == pytest.approx(distance)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert kid.distance(first @ turn, second @ turn) == pytest.approx(distance)


def test_equal_distributions_have_no_distance_on_average():
    rng = np.random.default_rng(0)
    found = [kid.distance(*rng.normal(size=(2, 20, 3))) for _ in range(300)]
    assert min(found) < 0 < max(found)  # unbiased: not a square
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(300))
    assert kid.distance(rng.normal(size=(20, 3)), rng.normal(3, 1, (20, 3))) > 1


def test_subsets_are_no_larger_than_there_are_features():
    first, second = np.random.default_rng(0).normal(size=(2, 5, 3))
    whole = kid.subset_distances(first, second[:4], subsets=3, size=99, seed=1)
    assert whole.shape == (3,)
    again = kid.subset_distances(first, second[:4], subsets=3, size=4, seed=1)
    np.testing.assert_array_equal(whole, again)
    other = kid.subset_distances(first, second[:4], subsets=3, size=4, seed=2)
    assert not np.array_equal(whole, other)


def test_one_feature_has_no_pair():
    with pytest.raises(ValueError, match="at least two"):
        kid.distance(np.zeros((1, 3)), np.zeros((4, 3)))
