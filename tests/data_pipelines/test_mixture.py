"""Mixtures: exact proportions, every element once, random access."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.mixture import Mixture, row_weights

weights = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@settings(deadline=None)
@given(weights, st.integers(0, 10**12))
def test_every_component_runs_through_its_elements_in_order(weights, start):
    mixture = Mixture(weights)
    seen: dict[int, int] = {}
    counts = Counter()
    total = sum(weights)
    for index in range(start, start + total):
        component, position = mixture[index]
        assert position == seen.get(component, position)
        seen[component] = position + 1
        counts[component] += 1
    # Any window of W elements holds each component's weight, up to one either side.
    for component, weight in enumerate(weights):
        assert abs(counts[component] - weight) <= len(weights)


@settings(deadline=None)
@given(weights, st.integers(1, 4))
def test_proportions_are_exact_over_whole_periods(weights, periods):
    mixture = Mixture(weights)
    total = sum(weights)
    counts = Counter(mixture[index][0] for index in range(periods * total))
    assert counts == {c: periods * weight for c, weight in enumerate(weights)}
    # Periods repeat, which makes positions exact however far the stream has run.
    far = 10**9 * total
    for index in range(total):
        component, position = mixture[index]
        assert mixture[far + index] == (
            component,
            position + 10**9 * weights[component],
        )


def test_equal_weights_alternate():
    assert [Mixture([3, 3])[i] for i in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.333, 0.559, 1.0, 2.0, 3.0]),
            st.integers(1, 10_000),
            st.integers(1, 1000),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_row_weights_mix_samples_exactly(components):
    ratios, samples, rows = map(list, zip(*components, strict=True))
    rows = [min(row, sample) for row, sample in zip(rows, samples, strict=True)]
    weights = row_weights(ratios, samples, rows)
    # Samples given per row drawn: weight × samples / rows, in proportion to ratio.
    rates = [
        Fraction(w * s, r) / Fraction(str(ratio))
        for w, s, r, ratio in zip(weights, samples, rows, ratios, strict=True)
    ]
    assert len(set(rates)) == 1


def test_refusals():
    with pytest.raises(ValueError, match="positive and finite, not 0"):
        row_weights([1, 0], [1, 1], [1, 1])
    with pytest.raises(ValueError, match="positive integers"):
        Mixture([])
