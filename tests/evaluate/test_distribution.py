"""Distances between sets of features against their definitions and golden numbers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from feature_sets import GOLDEN, KID, sets
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.evaluate import frechet, inception_score, kernel, neighbours
from unitoken_jax.evaluate.distribution import DistributionConfig, compare, extract
from unitoken_jax.evaluate.networks import FeatureNetwork, Judges, PairNetwork


def test_golden_numbers():
    real, generated, logits = sets()
    fid = frechet.distance(frechet.moments(real), frechet.moments(generated))
    assert fid == pytest.approx(GOLDEN["fid"], rel=1e-4)
    distances = kernel.subset_distances(generated, real, **KID)
    assert distances.mean() == pytest.approx(GOLDEN["kid"], rel=1e-5)
    scores = inception_score.scores(logits)
    assert (scores.mean(), scores.std()) == pytest.approx(
        GOLDEN["inception_score"], rel=1e-5
    )
    inside = neighbours.covered(generated, real), neighbours.covered(real, generated)
    assert [x.mean() for x in inside] == pytest.approx(
        [GOLDEN["precision"], GOLDEN["recall"]], rel=1e-6
    )


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
    assert kernel.distance(x, y) == pytest.approx(expected)
    found = kernel.subset_distances(x, y, subsets=400, size=3, seed=0)
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 20)


def test_precision_and_recall_see_what_lies_where(monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK", 3)
    line = np.arange(8.0)[:, None]
    points = np.array([[-1.0], [-1.01], [3.5], [8.0], [8.1]])
    inside = neighbours.covered(points, line, neighbours=1)
    assert inside.tolist() == [True, False, True, True, False]
    with pytest.raises(ValueError, match=r"have no 8\. nearest"):
        neighbours.covered(points, line, neighbours=8)


def test_inception_score_counts_clear_and_even_classes():
    sure = 50 * np.eye(4)[np.arange(40) % 4]
    assert inception_score.scores(sure, splits=1) == pytest.approx([4])
    assert inception_score.scores(0 * sure, splits=2) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="3 pictures cannot be divided into 10"):
        inception_score.scores(sure[:3])


class Means(nn.Module):
    """Colors as features, and logits of two classes."""

    @nn.compact
    def __call__(self, pictures):
        features = pictures.astype(jnp.float32).mean((1, 2))
        return {"features": features, "logits": features[:, :2]}


COLORS = FeatureNetwork("colors", Means(), {}, lambda m, p, x: m.apply(p, x))


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 4, 5, 3), np.uint8)


def test_pictures_stream_through_the_network():
    config = DistributionConfig(batch=4)
    shown = pictures(10, 0)
    done = []
    found = extract(COLORS, iter(shown), config, done.append)
    assert done == [4, 4, 2]
    np.testing.assert_allclose(found.rows, shown.mean((1, 2)), rtol=1e-6)
    assert found.logits.shape == (10, 2)
    np.testing.assert_allclose(found.moments.mean, shown.mean((0, 1, 2)), rtol=1e-6)
    lean = DistributionConfig(batch=4, keep=False)
    streamed = extract(COLORS, iter(shown), lean)
    assert streamed.rows is streamed.logits is None
    assert compare(found, streamed, "m", lean).keys() == {"frechet_m"}
    mixed = [shown[0], shown[0].swapaxes(0, 1)]
    with pytest.raises(ValueError, match="has 5 × 4 pixels and another 4 × 5"):
        extract(COLORS, mixed, config)
    with pytest.raises(ValueError, match="no pictures"):
        extract(COLORS, [], config)


def test_only_the_published_network_gives_the_published_names():
    config = DistributionConfig(batch=8, subset=6, subsets=20, resamples=10)
    real, generated = (extract(COLORS, pictures(12, i), config) for i in range(2))
    named = compare(real, generated, "inception", config)
    assert list(named) == [
        *("fid", "kid", "inception_score"),
        *("precision_inception", "recall_inception"),
    ]
    other = compare(real, generated, "alexnet", config)
    assert list(other) == [
        *("frechet_alexnet", "kernel_alexnet"),
        *("precision_alexnet", "recall_alexnet"),
    ]
    for measure in (*named.values(), *other.values()):
        assert measure.count == 12
        assert measure.low <= measure.value <= measure.high
    few = extract(COLORS, pictures(3, 2), config)
    assert list(compare(real, few, "inception", config)) == ["fid", "kid"]


def test_pictures_too_small_for_a_network_are_not_shown_to_it():
    large = FeatureNetwork("large", nn.Module(), {}, dict, smallest=13)
    small = PairNetwork("small", nn.Module(), {})
    judges = Judges([large], [small])
    assert judges.of_side(13) == judges
    assert judges.of_side(12) == ([], [small])
