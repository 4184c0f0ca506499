"""The Fréchet distance against its formula and known normals."""

import itertools

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.evaluate.statistics import frechet


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_do_not_depend_on_the_batches(sizes, seed):
    count = sum(sizes) + 2
    features = np.random.default_rng(seed).normal(1e4, 1, (count, 3))
    streamed = frechet.Moments(3)
    bounds = [0, *itertools.accumulate(sizes), count]
    for start, end in itertools.pairwise(bounds):
        streamed.add(features[start:end])
    np.testing.assert_allclose(streamed.mean, features.mean(0), rtol=1e-12)
    expected = np.cov(features, rowvar=False)
    np.testing.assert_allclose(streamed.covariance, expected, atol=1e-7)


@pytest.mark.parametrize("count", [6, 200])
def test_frechet_distance_is_the_formula(count):
    rng = np.random.default_rng(count)
    one, other = rng.normal(size=(2, count, 12)) @ rng.normal(size=(12, 12))
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # A little of the identity, without which few pictures have no square root.
    noise = 1e-9 * np.eye(12)
    root = scipy.linalg.sqrtm((a + noise) @ (b + noise)).real
    step = one.mean(0) - other.mean(0)
    expected = step @ step + np.trace(a + b - 2 * root)
    first, second = frechet.moments(one), frechet.moments(other)
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet.distance(second, first) == pytest.approx(expected, rel=1e-4)
    assert frechet.distance(first, first) < 1e-9 * np.trace(a)


def test_frechet_distance_of_known_normals():
    # Scaled by 2 and moved by 3 along one of two axes: 3² + (2-1)² · variance.
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    y = x * [2, 1] + [3, 0]
    found = frechet.distance(frechet.moments(x), frechet.moments(y))
    assert found == pytest.approx(9 + 2 / 3)


def test_the_interval_has_the_width_of_repeated_draws():
    rng = np.random.default_rng(0)

    def draw(count):
        return rng.normal(size=(count, 4)), rng.normal(0.5, 1.5, size=(count, 4))

    many = [frechet.distance(*map(frechet.moments, draw(100))) for _ in range(200)]
    halves = [frechet.half_interval(*draw(100), 60, seed) for seed in range(5)]
    assert np.mean(halves) == pytest.approx(1.96 * np.std(many), rel=0.2)
    # Few features of many numbers: computed in their common span.
    wide = rng.normal(size=(2, 8, 2000))
    assert 0 < frechet.half_interval(*wide, 5, 0) < np.inf
    assert frechet.half_interval(*wide, 0, 0) is None


def pairs(seed, count=9, size=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)), rng.normal(1, 2, size=(count + 2, size))


def between(first, second):
    return frechet.distance(frechet.moments(first), frechet.moments(second))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.floats(0.1, 5), st.floats(-3, 3))
def test_the_distance_follows_what_is_done_to_both_sides(seed, scale, step):
    first, second = pairs(seed)
    distance = between(first, second)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    assert between(first @ turn, second @ turn) == pytest.approx(distance, rel=1e-6)
    assert between(scale * first, scale * second) == pytest.approx(
        scale**2 * distance, rel=1e-6
    )
    assert between(first + step, second + step) == pytest.approx(distance, rel=1e-6)
    # Alone, a step adds its square.
    assert between(first, first + step) == pytest.approx(3 * step**2, abs=1e-6)
    assert between(first, second) == pytest.approx(between(second, first), rel=1e-9)


def test_features_that_never_change_have_the_distance_of_their_means():
    ones = np.ones((4, 3))
    assert between(ones, 3 * ones) == pytest.approx(12)
    assert between(ones, ones) == 0


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="at least two pictures, not 1"):
        between(np.zeros((1, 3)), np.zeros((5, 3)))
    empty = frechet.Moments(3)
    empty.add(np.zeros((0, 3)))
    assert empty.count == 0


def test_an_interval_that_would_take_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr(frechet, "_LARGEST", 4)
    first, second = pairs(0, count=9, size=5)
    assert frechet.half_interval(first, second, 5, 0) is None
    assert frechet.half_interval(first[:, :4], second[:, :4], 5, 0) is not None
    assert frechet.half_interval(first[:, :4], second[:, :4], 1, 0) is None


def test_the_common_span_keeps_the_distance():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4, 60))
    one, other = frechet._common_span(first, second)
    assert one.shape == (4, 8)
    assert between(one, other) == pytest.approx(between(first, second), rel=1e-9)
