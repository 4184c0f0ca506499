"""Intervals, and the table that prints them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.evaluate.statistics.intervals import (
    Measure,
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
