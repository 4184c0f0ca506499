"""The inception score of clear, even and empty classes."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.evaluate.statistics import inception_score


def test_inception_score_counts_clear_and_even_classes():
    sure = 50 * np.eye(4)[np.arange(40) % 4]
    assert inception_score.scores(sure, splits=1) == pytest.approx([4])
    assert inception_score.scores(0 * sure, splits=2) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="3 pictures cannot be divided into 10"):
        inception_score.scores(sure[:3])


def by_hand(logits):
    """Return exp(mean KL(p(y|x) ‖ p(y))), one image after the other."""
    rows = [scipy.special.softmax(row) for row in logits]
    mean = np.mean(rows, axis=0)
    return np.exp(np.mean([scipy.stats.entropy(row, mean) for row in rows]))


LOGITS = st.tuples(st.integers(0, 999), st.integers(2, 12), st.integers(2, 5)).map(
    lambda case: np.random.default_rng(case[0]).normal(0, 4, size=case[1:])
)


@settings(deadline=None)
@given(LOGITS, st.floats(-50, 50))
def test_the_score_is_its_formula_and_knows_no_offset(logits, offset):
    (found,) = inception_score.scores(logits, splits=1)
    assert found == pytest.approx(by_hand(logits), rel=1e-6)
    assert 1 - 1e-9 <= found <= logits.shape[1] + 1e-9
    (moved,) = inception_score.scores(logits + offset, splits=1)
    assert moved == pytest.approx(found, rel=1e-6)


def test_splits_take_every_image_once():
    logits = np.random.default_rng(0).normal(0, 3, (11, 4))
    order = np.random.RandomState(5).permutation(11)
    parts = [order[:3], order[3:7], order[7:]]
    found = inception_score.scores(logits, splits=3, seed=5)
    expected = [by_hand(logits[part]) for part in parts]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_great_logits_do_not_overflow():
    logits = 1e4 * np.eye(3)[np.arange(9) % 3]
    assert inception_score.scores(logits, splits=1) == pytest.approx([3])
