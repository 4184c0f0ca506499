"""Distances between sets of images, their names and golden numbers."""

import jax.numpy as jnp
import numpy as np
import pytest
from feature_sets import GOLDEN, KID, sets
from flax import linen as nn

from unitoken_jax.evaluate.feature_networks.distribution import (
    DistributionConfig,
    compare,
    extract,
)
from unitoken_jax.evaluate.feature_networks.extractors import (
    FeatureExtractors,
    FeatureNetwork,
    PairNetwork,
)
from unitoken_jax.evaluate.statistics import (
    frechet,
    inception_score,
    kid,
    precision_recall,
)


def test_golden_numbers():
    real, generated, logits = sets()
    fid = frechet.distance(frechet.moments(real), frechet.moments(generated))
    assert fid == pytest.approx(GOLDEN["fid"], rel=1e-4)
    distances = kid.subset_distances(generated, real, **KID)
    assert distances.mean() == pytest.approx(GOLDEN["kid"], rel=1e-5)
    scores = inception_score.scores(logits)
    assert (scores.mean(), scores.std()) == pytest.approx(
        GOLDEN["inception_score"], rel=1e-5
    )
    inside = (
        precision_recall.covered(generated, real),
        precision_recall.covered(real, generated),
    )
    assert [x.mean() for x in inside] == pytest.approx(
        [GOLDEN["precision"], GOLDEN["recall"]], rel=1e-6
    )


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
    extractors = FeatureExtractors([large], [small])
    assert extractors.of_side(13) == extractors
    assert extractors.of_side(12) == ([], [small])
