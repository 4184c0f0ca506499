"""Plans of packed rows: nothing lost, nothing twice, no row too long."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import packing


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=200),
    st.integers(0, 2**31),
    st.sampled_from([1, 7, 64]),
)
def test_every_sample_stands_once_and_rows_hold_their_limits(samples, seed, window):
    lengths = np.array([length for length, _ in samples], int)
    views = np.array([shown for _, shown in samples], int)
    plan = packing.plan_rows(lengths, views, 40, 4, seed=seed, window=window)
    assert sorted(plan.samples.tolist()) == list(range(len(samples)))
    rows = [plan[row] for row in range(len(plan))]
    assert np.array_equal(np.concatenate([*rows, plan.samples[:0]]), plan.samples)
    for row in rows:
        assert 1 <= len(row) <= plan.widest
        assert lengths[row].sum() <= 40
        assert views[row].sum() <= 4
    if rows:
        assert plan.filled == pytest.approx(lengths.sum() / (40 * len(rows)))


def test_plan_is_a_function_of_the_seed():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    views = np.ones(500, int)
    plans = [packing.plan_rows(lengths, views, 100, 4, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(plans[0].samples, plans[1].samples)
    np.testing.assert_array_equal(plans[0].starts, plans[1].starts)
    assert not np.array_equal(plans[0].samples, plans[2].samples)


def test_best_fit_takes_the_fullest_row():
    # 6 and 5 open two rows; 4 fills the first, 3 and 2 the second.
    plan = packing.plan_rows(np.array([2, 6, 4, 3, 5]), np.zeros(5, int), 10, 0, seed=0)
    rows = {tuple(sorted(plan[row].tolist())) for row in range(len(plan))}
    assert rows == {(1, 2), (0, 3, 4)}
    assert plan.filled == 1.0


def test_views_bound_a_row():
    plan = packing.plan_rows(np.full(6, 1), np.full(6, 2), 100, 4, seed=0)
    assert np.diff(plan.starts).tolist() == [2, 2, 2]


@pytest.mark.parametrize("row_length", [512, 8192])
def test_realistic_lengths_fill_their_rows(row_length):
    # Miniature samples in short rows; published ones (AnyRes) in rows of 8,192.
    rng = np.random.default_rng(0)
    scale = row_length // 512
    lengths = scale * rng.integers(90, 150, 20_000) + rng.integers(0, 40, 20_000)
    plan = packing.plan_rows(lengths, np.ones(20_000, int), row_length, 8, seed=0)
    assert plan.filled > 0.93


def test_a_sample_that_fits_no_row_is_refused():
    with pytest.raises(ValueError, match="sample 1 takes 11 positions and 0 views"):
        packing.plan_rows(np.array([10, 11]), np.zeros(2, int), 10, 1, seed=0)
    with pytest.raises(ValueError, match="sample 0 takes 1 positions and 2 views"):
        packing.plan_rows(np.array([1]), np.array([2]), 10, 1, seed=0)


def test_no_samples_make_no_rows():
    plan = packing.plan_rows(np.zeros(0, int), np.zeros(0, int), 10, 1, seed=0)
    assert (len(plan), plan.widest, plan.filled) == (0, 0, 0.0)
