"""Precision and recall of points that lie where they are seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.evaluate.statistics import precision_recall


def test_precision_and_recall_see_what_lies_where(monkeypatch):
    monkeypatch.setattr(precision_recall, "_CHUNK", 3)
    line = np.arange(8.0)[:, None]
    points = np.array([[-1.0], [-1.01], [3.5], [8.0], [8.1]])
    inside = precision_recall.covered(points, line, neighbors=1)
    assert inside.tolist() == [True, False, True, True, False]
    with pytest.raises(ValueError, match=r"have no 8\. nearest"):
        precision_recall.covered(points, line, neighbors=8)


POINTS = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=5, max_size=14
).map(lambda rows: np.array(rows, np.float64))


def by_hand(samples, members, k):
    """Which samples lie in a member's ball, one distance after the other."""
    radii = []
    for i, member in enumerate(members):
        others = [m for j, m in enumerate(members) if j != i]
        radii.append(sorted(float(((member - m) ** 2).sum()) for m in others)[k - 1])
    return [
        any(((s - m) ** 2).sum() <= r for m, r in zip(members, radii, strict=True))
        for s in samples
    ]


@settings(deadline=None)
@given(POINTS, POINTS, st.integers(1, 4))
def test_balls_are_those_of_counting_by_hand(samples, members, k):
    # Thousandths beside whole numbers: rounding decides at no boundary.
    samples = np.add(samples, [0.001, 0.003])
    found = precision_recall.covered(samples, members, neighbors=k)
    assert found.tolist() == by_hand(samples, members, k)


@settings(deadline=None)
@given(POINTS, POINTS)
def test_larger_balls_cover_no_less_and_a_move_of_all_changes_nothing(one, other):
    # Thousandths beside whole numbers: rounding decides at no boundary.
    one = np.add(one, [0.001, 0.003])
    small = precision_recall.covered(one, other, neighbors=1)
    large = precision_recall.covered(one, other, neighbors=3)
    assert not (small & ~large).any()
    moved = precision_recall.covered(one + 64, other + 64, neighbors=3)
    np.testing.assert_array_equal(moved, large)


@settings(deadline=None)
@given(POINTS)
def test_a_set_covers_itself(points):
    assert precision_recall.covered(points, points, neighbors=1).all()
    far = points + 1000
    assert not precision_recall.covered(far, points, neighbors=4).any()
