"""What all evaluators share: batches, the choice of examples."""

import numpy as np
import pytest

from data_pipelines.images.pairs import ImagesConfig
from unitoken_jax.config import ConfigError
from unitoken_jax.evaluate.evaluator import EvaluatedRun, batches, evenly_spaced


@pytest.mark.parametrize("evaluator", ["retrieval", "zero_shot"])
def test_a_stage_that_has_seen_no_caption_is_refused(evaluator):
    """As a UniTok that learned from images alone, where its evaluator is named."""
    said = f"config.evaluation.{evaluator}: .* kind 'images', which has no captions"
    with pytest.raises(ConfigError, match=said):
        EvaluatedRun.caption_encoder(None, evaluator, ImagesConfig())


def test_batches_have_one_size_and_say_what_counts():
    found = [(b["a"].tolist(), n) for b, n in batches({"a": np.arange(5)}, 2)]
    assert found == [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]


def test_examples_are_spread_over_all():
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(2, 5) == [0, 1]
    assert evenly_spaced(0, 5) == []
