"""Whether a model has learnt single images by heart, in both directions.

For new hardware and new code: a model that cannot overfit one pair cannot learn. It
captions the image, and draws it from the caption; both must come back.
"""

import itertools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_pipelines.prompts import ImageInputs
from data_pipelines.storage.records import Record
from data_pipelines.unitoken.rows import SequencesConfig
from unitoken_jax.errors import FailedError
from unitoken_jax.evaluate.config import MemorizationConfig
from unitoken_jax.evaluate.evaluator import (
    EvaluatedRun,
    Evaluation,
    Evaluator,
)
from unitoken_jax.evaluate.statistics.answers import Reduce, words
from unitoken_jax.evaluate.statistics.intervals import Measure, proportion
from unitoken_jax.generate.sampler import Sampler
from unitoken_jax.ops import fidelity, pixels


class MemorizationError(FailedError):
    """A model does not reproduce what it was trained on."""


class Pair(NamedTuple):
    """An image, the question that asks for its caption, and the caption."""

    view: ImageInputs
    question: str
    caption: str


class Memorization(Evaluator[MemorizationConfig]):
    """Let a model caption and draw what it has learnt by heart."""

    name: ClassVar[str] = "memorization"

    def run(self) -> Evaluation:
        """Ask for captions as training does, and draw them."""
        source = self.source
        sampler = source.sampler
        stage = source.find_stage(
            self.name,
            source.experiment.generation.model,
            "config.generation.model",
        )
        # Only what learns from packed sequences has this evaluator.
        data = cast(SequencesConfig, source.experiment.stages[stage].data)
        question = data.layout.caption_question
        found = (
            source.set_aside.take(
                record["id"], lambda r=record, i=image: _pair(source, r, i, question)
            )
            for record, image in source.images()
            if record["captions"]
        )
        pairs = (pair for pair in found if pair)
        some = source.nonempty(pairs, "captioned pictures")
        chosen = list(itertools.islice(some, self.config.pairs))
        return evaluate(sampler, chosen, self.config, reduce=source.reduce)


def _pair(
    source: EvaluatedRun, record: Record, image: Image.Image, question: str
) -> Pair:
    view = source.captioned_view(record, image)
    caption = record["captions"][0]
    source.check_room(view, question, caption)
    return Pair(view, question, caption)


def evaluate(
    sampler: Sampler,
    pairs: Sequence[Pair],
    config: MemorizationConfig,
    *,
    reduce: Reduce = words,
) -> Evaluation:
    """Caption images and draw their captions.

    Args:
        sampler: Who does it; its temperature should be 0.
        pairs: Images it was trained on, at least one.
        config: See `MemorizationConfig`.
        reduce: When two captions say the same, see `answers.RULES`.

    Returns:
        Measures `captions` (share that comes back word for word), `drawings` (share
        that reaches the PSNR) and `psnr` (mean); samples `reproductions` of {image,
        real, prompt, answer, psnr}.
    """
    answers = sampler.answer(
        [pair.view for pair in pairs], [pair.question for pair in pairs]
    )
    drawings = sampler.draw([pair.caption for pair in pairs], [0] * len(pairs))
    originals, drawn = (
        pixels.normalize(jnp.asarray(images))
        for images in ([pair.view.whole for pair in pairs], drawings)
    )
    psnr = np.asarray(fidelity.psnr(originals, drawn))
    said = [
        reduce(answer) == reduce(pair.caption)
        for answer, pair in zip(answers, pairs, strict=True)
    ]
    return Evaluation(
        {
            "captions": proportion(sum(said), len(pairs)),
            "drawings": proportion(int(np.sum(psnr >= config.psnr)), len(pairs)),
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


def verdict(found: Evaluation, config: MemorizationConfig) -> str:
    """Say that everything was reproduced, or refuse.

    Raises:
        MemorizationError: Saying what did not come back.
    """
    captions, drawings = found.measures["captions"], found.measures["drawings"]
    sample = found.samples["drawings"][0]
    told = (
        f"{captions.value:.0%} of captions and {drawings.value:.0%} of pictures "
        f"came back; {sample['prompt']!r} gave a drawing of {sample['psnr']:.1f} dB "
        f"(wanted: {config.psnr:g}), and {sample['answers']!r}"
    )
    if captions.value < 1 or drawings.value < 1:
        raise MemorizationError(
            f"FAILURE: {told}. The model has not learnt what it was shown: look at the "
            "curves of its stages before training anything else."
        )
    return f"SUCCESS: {told}."
