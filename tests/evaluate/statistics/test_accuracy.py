"""Accuracies and bits of answers, against counting by hand."""

import numpy as np
import pytest

from unitoken_jax.evaluate.statistics import accuracy


def test_majority_counts_normalized_answers_of_each_kind():
    counts = counted("a Yes", "a no", "a yes.", "b y", "b x")
    assert counts == {"a": {"yes": 2, "no": 1}, "b": {"y": 1, "x": 1}}
    assert accuracy.majority(counts) == {"a": "yes", "b": "x"}


def counted(*answers):
    """Counts of training answers, from words 'KIND ANSWER'."""
    return accuracy.count_answers(tuple(a.split()) for a in answers)


def test_bits_of_answers_stand_beside_those_of_their_frequencies():
    counts = counted("color red", "color red", "color blue", "name dog")
    kinds, truths = ["color", "color", "name", "count"], ["Red", "green", "cat", "2"]
    nats = np.log([1.0, 0.5, 0.125, 0.25])
    found = accuracy.answer_bits(kinds, truths, nats, counts)
    values = {name: (m.value, m.baseline, m.count) for name, m in found.items()}
    # One of four is for what training does not show: red 2/4, green 1/4, cat 1/2.
    assert values == {
        "all": (pytest.approx(6 / 4), pytest.approx((1 + 2 + 1 + 0) / 4), 4),
        "color": (pytest.approx(0.5), pytest.approx(1.5), 2),
        "name": (pytest.approx(3.0), pytest.approx(1.0), 1),
        "count": (pytest.approx(2.0), pytest.approx(0.0), 1),
    }
    assert {m.unit for m in found.values()} == {"bits"}
