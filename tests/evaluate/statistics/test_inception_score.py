"""The inception score of clear, even and empty classes."""

import numpy as np
import pytest

from unitoken_jax.evaluate.statistics import inception_score


def test_inception_score_counts_clear_and_even_classes():
    sure = 50 * np.eye(4)[np.arange(40) % 4]
    assert inception_score.scores(sure, splits=1) == pytest.approx([4])
    assert inception_score.scores(0 * sure, splits=2) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="3 pictures cannot be divided into 10"):
        inception_score.scores(sure[:3])
