"""Intervals, and the table that prints them."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.evaluate.statistics.intervals import (
    Measure,
    estimate,
    proportion,
    summarize,
    table,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_lies_in_its_interval(case):
    hits, count = case
    m = proportion(hits, count)
    assert 0 <= m.low <= m.value <= m.high <= 1
    # Known symmetry: successes and failures mirror each other.
    mirrored = proportion(count - hits, count)
    assert m.low == pytest.approx(1 - mirrored.high)


def test_share_agrees_with_wilson():
    # Agresti & Coull 1998: 0 of 10 gives [0, 0.278], 5 of 10 gives [0.237, 0.763].
    assert proportion(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert proportion(5, 10).low == pytest.approx(0.2366, abs=1e-4)


def test_wilson_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truths = rng.uniform(0.05, 0.95, 3000)
    shares = [proportion(int(hits), 40) for hits in rng.binomial(40, truths)]
    covered = [m.low <= p <= m.high for m, p in zip(shares, truths, strict=True)]
    assert 0.94 < np.mean(covered) < 0.96


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    values = np.random.default_rng(1).normal(20, 2, 400)
    m = summarize(values, unit="dB")
    assert m == summarize(values, unit="dB")
    half = 1.96 * values.std() / 20
    assert m.value == pytest.approx(values.mean())
    assert m.high - m.value == pytest.approx(half, rel=0.15)
    assert summarize(values, np.median).value == np.median(values)


def test_table_shows_value_interval_and_baseline():
    text = table(
        {
            "accuracy": proportion(30, 40, 0.25, "majority"),
            "psnr": Measure(21.347, 8, 20.9, 21.8, unit="dB"),
        }
    )
    header, rule, accuracy, psnr = text.splitlines()
    assert header.split() == [
        "measure",
        "value",
        "95",
        "%",
        "interval",
        "baseline",
        "samples",
    ]
    assert set(rule) == {"─"}
    assert accuracy.split() == (
        ["accuracy", "75.0%", "59.8%", "–", "85.8%", "25.0%", "majority", "40"]
    )
    assert psnr.split() == ["psnr", "21.35", "dB", "20.9", "–", "21.8", "8"]


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportions_are_those_of_scipy(case):
    hits, count = case
    m = proportion(hits, count, 0.5, "chance")
    expected = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert (m.low, m.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (m.value, m.count, m.baseline) == (hits / count, count, 0.5)


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(VALUES, st.sampled_from([np.mean, np.median]))
def test_the_interval_of_any_values_holds_their_statistic(values, statistic):
    m = summarize(np.array(values), statistic, resamples=50)
    assert m.low <= m.value <= m.high
    assert m.value == statistic(np.array(values), axis=0)
    assert min(values) - 1e-6 <= m.low
    assert m.high <= max(values) + 1e-6


def test_bootstrap_is_that_of_an_independent_loop():
    values = np.random.default_rng(3).exponential(size=25)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 25, (1000, 25))
    means = sorted(float(np.mean([values[i] for i in draw])) for draw in draws)
    m = summarize(values, unit="dB")
    expected = np.percentile(means, [2.5, 97.5])
    assert (m.low, m.high) == pytest.approx(tuple(expected))


def test_one_value_and_equal_values_have_no_spread():
    assert summarize(np.array([7.0])).low == summarize(np.array([7.0])).high == 7
    alone = estimate(np.array([2.5]), 40, unit="classes")
    assert (alone.value, alone.low, alone.high, alone.count) == (2.5, None, None, 40)
    same = estimate(np.full(9, 1e-3), 40, unit="MMD²")
    assert (same.low, same.high) == (None, None)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_an_estimate_has_the_normal_interval_of_its_mean(values):
    m = estimate(np.array(values), 5, unit="FD")
    assert m.value == pytest.approx(np.mean(values))
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    if m.low is not None and m.high is not None:
        assert m.high - m.low == pytest.approx(2 * 1.959964 * spread, rel=1e-5)
        assert (m.low + m.high) / 2 == pytest.approx(m.value, abs=1e-6)
    else:
        assert spread < 1e-8


@pytest.mark.parametrize(
    ("value", "baseline", "less", "worse"),
    [
        (0.2, 0.3, False, True),
        (0.3, 0.3, False, False),
        (0.2, 0.3, True, False),
        (4.0, 3.0, True, True),
        (0.0, None, False, False),
    ],
)
def test_what_knows_nothing_may_reach_more(value, baseline, less, worse):
    m = Measure(value, 9, baseline=baseline, less_is_better=less, unit="bits")
    assert m.is_worse is worse
    said = table({"x": m})
    assert (("above" if less else "below") + " its baseline" in said) is worse


def test_a_table_of_nothing_has_its_header_alone():
    assert len(table({}).splitlines()) == 2
