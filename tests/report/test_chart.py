"""Scales, ticks and smoothing of line charts."""

import re

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.report import chart

numbers = st.floats(-1e12, 1e12, allow_subnormal=False)
curves = hnp.arrays(np.float64, st.integers(1, 700), elements=numbers)


def points(path):
    pairs = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)
    return np.asarray(pairs, np.float64)


@given(curves)
def test_everything_lies_in_the_canvas(values):
    drawn = chart.draw(np.arange(len(values)) * 10, values, "Loss")
    for path in (drawn.raw, drawn.smooth):
        x, y = points(path).T
        assert x.min() >= chart.LEFT - 0.1
        assert x.max() <= chart.WIDTH - chart.RIGHT + 0.1
        assert y.min() >= chart.TOP - 0.1
        assert y.max() <= chart.HEIGHT - chart.BOTTOM + 0.1
    assert drawn.y_ticks
    for tick in drawn.y_ticks:
        assert chart.TOP - 0.1 <= tick.at <= chart.HEIGHT - chart.BOTTOM + 0.1
    for tick in drawn.x_ticks:
        assert chart.LEFT - 0.1 <= tick.at <= chart.WIDTH - chart.RIGHT + 0.1


@given(st.integers(1, 9998))
def test_a_long_curve_is_thinned_without_losing_its_spike(place):
    values = np.ones(10_000)
    values[place] = 9.0
    x, y = points(chart.draw(np.arange(10_000), values, "Loss").raw).T
    assert len(y) <= 402
    assert (
        y < y.max() - 100
    ).sum() == 1  # high values lie at the top, where y is small
    assert x[0] == chart.LEFT
    assert x[-1] == chart.WIDTH - chart.RIGHT


@given(curves)
def test_smoothing_stays_between_neighbors_and_keeps_the_ends(values):
    smoothed = chart.smooth(values)
    assert smoothed.shape == values.shape
    slack = 1e-6 * (1 + np.abs(values).sum())
    assert smoothed.min() >= values.min() - slack
    assert smoothed.max() <= values.max() + slack
    assert smoothed[0] == pytest.approx(values[0], abs=slack)
    assert smoothed[-1] == pytest.approx(values[-1], abs=slack)


def test_smoothing_leaves_a_straight_line_straight():
    line = np.linspace(3, 90, 400)
    np.testing.assert_allclose(chart.smooth(line), line, rtol=1e-12)


def test_wide_positive_curves_get_a_log_axis():
    steps = np.arange(100)
    wide = chart.draw(steps, np.geomspace(10, 1e-3, 100), "z-loss")
    assert wide.logarithmic
    assert [tick.label for tick in wide.y_ticks] == ["0.001", "0.01", "0.1", "1", "10"]
    assert not chart.draw(steps, np.linspace(2, 4, 100), "Loss").logarithmic
    assert not chart.draw(steps, np.linspace(-1, 900, 100), "Margin").logarithmic


def test_ticks_are_round_and_enclose_the_curve():
    drawn = chart.draw(np.arange(0, 901, 10), np.linspace(0.62, 0.11, 91), "Loss")
    labels = [tick.label for tick in drawn.y_ticks]
    assert labels == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]
    assert [tick.label for tick in drawn.x_ticks] == ["0", "200", "400", "600", "800"]


def test_the_summary_says_where_the_curve_began_and_ended():
    drawn = chart.draw(np.array([10, 20]), np.array([4.0, 2.5]), "Loss", "nats")
    assert drawn.summary == "4 → 2.50 nats"
    single = chart.draw(np.array([10]), np.array([4.0]), "Loss")
    assert single.summary == "4 (one measurement)"
