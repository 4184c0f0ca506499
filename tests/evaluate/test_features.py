"""Whether features of different pictures are told apart."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.config import ConfigError
from unitoken_jax.evaluate import features
from unitoken_jax.evaluate.features import FeaturesConfig
from unitoken_jax.models.siglip import SiglipVision, SiglipVisionConfig


def test_the_rank_is_that_of_equal_directions() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(16, 16)))[0][:4]
    # Each direction up and down: the mean is 0 and the singular values are equal.
    cross = np.concatenate([basis, -basis])
    assert features.effective_rank(cross + 7) == pytest.approx(4)
    assert features.effective_rank(np.ones((5, 3))) == 1
    line = np.outer(np.arange(9), np.ones(3))
    assert features.effective_rank(line) == pytest.approx(1, abs=1e-6)


def test_similarity_of_pairs() -> None:
    rng = np.random.default_rng(1)
    found = rng.normal(size=(7, 5))
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = cosines[~np.eye(7, dtype=bool)].mean()
    assert features.similarity(found) == pytest.approx(expected)
    assert features.similarity(np.ones((3, 4))) == pytest.approx(1)


def test_a_tower_that_sees_one_thing_has_rank_one() -> None:
    config = SiglipVisionConfig(
        hidden=8, mlp=16, layers=1, heads=2, image=8, patch=4, head=False
    )
    tower = SiglipVision(config)
    rng = np.random.default_rng(2)
    tiles = rng.integers(0, 256, (10, 8, 8, 3), np.uint8)
    boxed = tower.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    params = jax.tree.map(
        lambda box: box.value, boxed["params"], is_leaf=lambda x: hasattr(x, "value")
    )
    options = FeaturesConfig(images=9, batch=4)
    found = features.evaluate(tower, params, iter(tiles), options)
    assert 1 < found.measures["effective_rank"].value <= 8
    assert found.measures["effective_rank"].unit == "of 8"
    assert found.measures["effective_rank"].count == 9
    nothing = jax.tree.map(np.zeros_like, params)
    blind = features.evaluate(tower, nothing, iter(tiles), options)
    assert blind.measures["effective_rank"].value == 1


FEATURES = st.tuples(st.integers(0, 999), st.integers(2, 8), st.integers(1, 6)).map(
    lambda case: np.random.default_rng(case[0]).normal(size=case[1:])
)


@settings(deadline=None)
@given(FEATURES, st.floats(0.1, 100), st.floats(-10, 10))
def test_the_rank_knows_neither_scale_nor_place_nor_direction(found, scale, step):
    rank = features.effective_rank(found)
    count, size = found.shape
    assert 1 - 1e-6 <= rank <= min(count - 1, size) + 1e-6
    assert features.effective_rank(scale * found + step) == pytest.approx(rank, 1e-4)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    assert features.effective_rank(found @ turn) == pytest.approx(rank, rel=1e-6)


@settings(deadline=None)
@given(FEATURES)
def test_the_rank_is_the_exponential_of_an_entropy(found):
    # Singular values are roots of the Gram matrix's eigenvalues.
    centered = found - found.mean(0)
    values = np.sqrt(np.clip(np.linalg.eigvalsh(centered @ centered.T), 0, None))
    p = values[values > 1e-6 * values.max()] / values.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    assert features.effective_rank(found) == pytest.approx(expected, rel=1e-3)


@settings(deadline=None)
@given(FEATURES, st.floats(0.1, 100))
def test_similarity_lies_between_opposite_and_equal(found, scale):
    value = features.similarity(found)
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert features.similarity(scale * found) == pytest.approx(value)
    assert features.similarity(np.zeros((3, 2))) == 0


def test_a_model_without_a_tower_says_so():
    needs = SimpleNamespace(tower="vision")
    system = SimpleNamespace(data=needs, value={"vision": None}.get)
    source = SimpleNamespace(
        restore=lambda name, stage: SimpleNamespace(system=system, params={})
    )
    with pytest.raises(ConfigError, match="has no image tower; leave it out"):
        features.Features(FeaturesConfig(), source).run()
    needs.tower = None
    with pytest.raises(ConfigError, match="has no image tower"):
        features.Features(FeaturesConfig(), source).run()
