"""Reconstructions and drawings in the eyes of networks that are known by heart."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from unitoken_jax.config import UserError
from unitoken_jax.evaluate import perception
from unitoken_jax.evaluate.feature_networks.distribution import DistributionConfig
from unitoken_jax.evaluate.feature_networks.extractors import (
    FeatureExtractors,
    FeatureNetwork,
    PairNetwork,
    distances,
    load_extractors,
)
from unitoken_jax.evaluate.perception import PerceptionConfig


class Colors(nn.Module):
    """Mean colors as features."""

    def __call__(self, images):
        return {"features": images.astype(jnp.float32).mean((1, 2))}


class Difference(nn.Module):
    """Mean difference of two batches in [-1, 1]."""

    def __call__(self, first, second):
        return jnp.abs(first - second).mean((1, 2, 3))


EXTRACTORS = FeatureExtractors(
    [FeatureNetwork("colors", Colors(), {}, lambda m, p, x: m.apply(p, x))],
    [PairNetwork("difference", Difference(), {})],
)
CONFIG = PerceptionConfig(
    distribution=DistributionConfig(batch=4, neighbors=1, subsets=5, resamples=5)
)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)


def test_perfect_reconstructions_have_no_distance():
    real = images(9)
    found = perception.evaluate(EXTRACTORS, real, real, {}, CONFIG)
    values = {name: measure.value for name, measure in found.measures.items()}
    assert list(values) == [
        "reconstructions/difference",
        *(f"reconstructions/{name}_colors" for name in ("frechet", "kernel")),
        *(f"reconstructions/{name}_colors" for name in ("precision", "recall")),
    ]
    assert values["reconstructions/difference"] == 0
    assert values["reconstructions/frechet_colors"] < 1e-6
    assert values["reconstructions/precision_colors"] == 1
    assert found.samples == {}


def test_drawings_are_measured_beside_and_worse_if_they_are():
    real = images(9)
    drawn = {"drawings": np.zeros((6, 4, 4, 3), np.uint8)}
    found = perception.evaluate(EXTRACTORS, real, real, drawn, CONFIG).measures
    assert found["drawings/frechet_colors"].count == 6
    better = found["reconstructions/frechet_colors"].value
    assert found["drawings/frechet_colors"].value > 1000 + better
    assert found["drawings/precision_colors"].value == 0
    # Nothing stands beside a drawing, pixel by pixel.
    assert "drawings/difference" not in found
    alone = perception.evaluate(EXTRACTORS, real, None, drawn, CONFIG).measures
    assert all(name.startswith("drawings/") for name in alone)


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_distances_of_pairs_do_not_depend_on_the_batch(batch):
    first, second = images(7), images(7, 1)
    pairs = zip(first, second, strict=True)
    found = distances(EXTRACTORS.pairs[0], pairs, batch)
    expected = np.abs(first.astype(float) - second).mean((1, 2, 3)) / 127.5
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def nothing(*_):
    raise AssertionError("without weights nothing is loaded")


def test_without_weights_it_is_left_out(caplog):
    caplog.set_level("INFO")
    source = SimpleNamespace(restore=nothing)
    config = PerceptionConfig(alexnet="nowhere.safetensors")
    found = perception.Perception(config, source).run()
    assert found.measures == {}
    assert "it has no weights" in caplog.text


def test_images_that_no_network_can_see_are_not_shown(alexnet, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(perception, "reconstruct", nothing)
    small = np.zeros((3, 8, 8, 3), np.uint8)
    source = SimpleNamespace(
        restore=lambda name, stage: SimpleNamespace(data=None),
        squares=lambda data: iter(small),
        nonempty=lambda items, what: items,
    )
    config = PerceptionConfig(alexnet=str(alexnet))
    assert perception.Perception(config, source).run().measures == {}
    assert "8 pixels are too few to be seen" in caplog.text


def test_weights_that_are_named_must_be_there(alexnet):
    assert not load_extractors("", "", "")
    assert not load_extractors("nowhere", "", "")
    found = load_extractors(str(alexnet), "", "")
    assert [network.name for network in found.features] == ["alexnet"]
    assert [network.name for network in found.pairs] == ["stlpips_alexnet"]
    for named in (("", "none.pth", ""), ("", "", "none.pth")):
        with pytest.raises(UserError, match="does not exist"):
            load_extractors(*named)
