"""Accuracies and bits of answers, against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


ROWS = st.lists(
    st.tuples(*[st.sampled_from(x) for x in ("ab", "xyz", "xyz", ("old", "new"))]),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(ROWS, ROWS)
def test_accuracies_are_counted_by_kind(rows, train):
    kinds, truths, answers, _ = map(list, zip(*rows, strict=True))
    counts = accuracy.count_answers((kind, truth) for kind, truth, *_ in train)
    majorities = accuracy.majority(counts)
    found = accuracy.accuracies(kinds, truths, answers, majorities)
    assert list(found) == ["all", *sorted(set(kinds))]
    for name, measure in found.items():
        some = [row for row in rows if name in ("all", row[0])]
        assert measure.count == len(some)
        assert measure.value == sum(t == a for _, t, a, _ in some) / len(some)
        blind = sum(majorities.get(k) == t for k, t, *_ in some) / len(some)
        assert measure.baseline == blind
        assert measure.low <= measure.value <= measure.high


@given(ROWS)
def test_the_majority_is_as_frequent_as_any(rows):
    counts = accuracy.count_answers((kind, truth) for kind, truth, *_ in rows)
    assert sum(c.total() for c in counts.values()) == len(rows)
    for kind, best in accuracy.majority(counts).items():
        most = max(counts[kind].values())
        assert counts[kind][best] == most
        assert best == min(a for a, n in counts[kind].items() if n == most)


@settings(deadline=None)
@given(ROWS)
def test_novelties_share_the_samples_among_them(rows):
    novelties = [row[3] for row in rows]
    found = accuracy.by_novelty(novelties)
    if len(set(novelties)) < 2:
        assert found == {}
        return
    assert sorted(i for places in found.values() for i in places) == list(
        range(len(rows))
    )
    columns = tuple([row[i] for row in rows] for i in range(3))
    whole = accuracy.accuracies(*columns, {})
    parts = accuracy.novel_accuracies(whole, novelties, columns, {})
    counts = {name: m.count for name, m in parts.items()}
    assert counts["new/all"] + counts["old/all"] == len(rows)
    for name, count in counts.items():
        kind = name.partition("/")[2]
        assert kind == "all" or count < whole[kind].count


def test_samples_of_unknown_novelty_are_in_no_group():
    found = accuracy.by_novelty(["", "new concepts", "", "new concepts"])
    assert found == {"new_concepts": [1, 3]}


def test_bits_of_kinds_that_training_never_asks():
    found = accuracy.answer_bits(["size"], ["big"], np.log([0.5]), {})
    assert (found["all"].value, found["all"].baseline) == (pytest.approx(1.0), 0.0)
    assert found["size"].less_is_better
    assert found["size"].is_worse


def test_the_rule_of_comparison_counts_for_all_of_them():
    counts = accuracy.count_answers([("a", "The Cat"), ("a", "cat")], str.upper)
    assert counts == {"a": {"THE CAT": 1, "CAT": 1}}
    found = accuracy.accuracies(["a"], ["Cat"], ["cAT"], {"a": "CAT"}, str.upper)
    assert (found["a"].value, found["a"].baseline) == (1.0, 1.0)
