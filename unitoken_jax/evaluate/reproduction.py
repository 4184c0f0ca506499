"""Whether a model has learnt single pictures by heart, in both directions.

For new hardware and new code: a model that cannot overfit one pair cannot learn. It
captions the picture, and draws it from the caption; both must come back.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from unitoken_jax.config import Count, UserError
from unitoken_jax.evaluate.answers import Reduce, words
from unitoken_jax.evaluate.measure import Evaluation, Measure, share
from unitoken_jax.generate.assistant import Speaker, View
from unitoken_jax.ops import fidelity, pixels


class ReproductionError(UserError):
    """A model does not reproduce what it was trained on."""


class Pair(NamedTuple):
    """A picture, the question that asks for its caption, and the caption."""

    view: View
    question: str
    caption: str


@dataclasses.dataclass(frozen=True)
class ReproductionConfig:
    """What to measure, and what counts as a success.

    Attributes:
        pairs: At most how many pictures with captions.
        psnr: What a drawing must reach beside its original, dB.
    """

    pairs: Count = 1
    psnr: float = 20.0


def evaluate(
    assistant: Speaker,
    pairs: Sequence[Pair],
    config: ReproductionConfig,
    *,
    reduce: Reduce = words,
) -> Evaluation:
    """Caption pictures and draw their captions.

    Args:
        assistant: Who does it; its temperature should be 0.
        pairs: Pictures it was trained on, at least one.
        config: See `ReproductionConfig`.
        reduce: When two captions say the same, see `answers.RULES`.

    Returns:
        Measures `captions` (share that comes back word for word), `drawings` (share
        that reaches the PSNR) and `psnr` (mean); samples `reproductions` of {image,
        real, prompt, answer, psnr}.
    """
    answers = assistant.answer(
        [pair.view for pair in pairs], [pair.question for pair in pairs]
    )
    drawings = assistant.draw([pair.caption for pair in pairs], [0] * len(pairs))
    originals, drawn = (
        pixels.normalize(jnp.asarray(pictures))
        for pictures in ([pair.view.whole for pair in pairs], drawings)
    )
    psnr = np.asarray(fidelity.psnr(originals, drawn))
    said = [
        reduce(answer) == reduce(pair.caption)
        for answer, pair in zip(answers, pairs, strict=True)
    ]
    return Evaluation(
        {
            "captions": share(sum(said), len(pairs)),
            "drawings": share(int(np.sum(psnr >= config.psnr)), len(pairs)),
            "psnr": Measure(float(psnr.mean()), len(pairs), unit="dB"),
        },
        {
            "drawings": [
                {
                    "prompt": pair.caption,
                    "image": drawing,
                    "real": pair.view.whole,
                    "answers": f"the picture's caption: {answer}",
                    "psnr": float(value),
                }
                for pair, answer, drawing, value in zip(
                    pairs, answers, drawings, psnr, strict=True
                )
            ]
        },
    )


def verdict(found: Evaluation, config: ReproductionConfig) -> str:
    """Say that everything was reproduced, or refuse.

    Raises:
        ReproductionError: Saying what did not come back.
    """
    captions, drawings = found.measures["captions"], found.measures["drawings"]
    sample = found.samples["drawings"][0]
    told = (
        f"{captions.value:.0%} of captions and {drawings.value:.0%} of pictures "
        f"came back; {sample['prompt']!r} gave a drawing of {sample['psnr']:.1f} dB "
        f"(wanted: {config.psnr:g}), and {sample['answers']!r}"
    )
    if captions.value < 1 or drawings.value < 1:
        raise ReproductionError(
            f"FAILURE: {told}. The model has not learnt what it was shown: look at the "
            "curves of its stages before training anything else."
        )
    return f"SUCCESS: {told}."
