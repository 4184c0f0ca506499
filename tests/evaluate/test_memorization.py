"""Whether what was learnt by heart comes back, and what is said if not."""

from types import SimpleNamespace

import numpy as np
import pytest

from unitoken_jax.evaluate import memorization
from unitoken_jax.evaluate.memorization import (
    MemorizationConfig,
    MemorizationError,
    Pair,
)

PICTURE = np.full((8, 8, 3), 200, np.uint8)


class Parrot:
    """Answers and draws what it is given."""

    def __init__(self, answer: str, drawing: np.ndarray) -> None:
        self._answer, self._drawing = answer, drawing

    def answer(self, views, questions):
        assert questions == ["What is it?"] * len(views)
        return [self._answer] * len(views)

    def draw(self, prompts, seeds):
        assert len(prompts) == len(seeds)
        return np.stack([self._drawing] * len(prompts))


def judge(answer: str, drawing: np.ndarray, **options) -> str:
    config = MemorizationConfig(**options)
    pairs = [Pair(SimpleNamespace(whole=PICTURE), "What is it?", "a red heart")]
    found = memorization.evaluate(Parrot(answer, drawing), pairs, config)  # type: ignore
    return memorization.verdict(found, config)


def test_both_directions_come_back() -> None:
    told = judge("A red heart.", PICTURE)
    assert told.startswith("SUCCESS: 100% of captions and 100% of pictures")
    assert "'a red heart' gave a drawing of 100.0 dB (wanted: 20)" in told


@pytest.mark.parametrize(
    ("answer", "drawing", "sentence"),
    [
        ("a heart", PICTURE, "FAILURE: 0% of captions and 100% of pictures"),
        ("a red heart", 255 - PICTURE, "FAILURE: 100% of captions and 0% of pictures"),
    ],
)
def test_what_does_not_come_back_is_named(answer, drawing, sentence) -> None:
    with pytest.raises(MemorizationError, match=sentence):
        judge(answer, drawing)


def test_what_is_wanted_of_a_drawing() -> None:
    near = PICTURE + np.uint8(8)
    assert judge("a red heart", near).startswith("SUCCESS")
    with pytest.raises(MemorizationError, match=r"30\.1 dB \(wanted: 40\)"):
        judge("a red heart", near, psnr=40.0)
