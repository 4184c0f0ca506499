"""Whether features of different pictures are told apart."""

import jax
import numpy as np
import pytest

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
