r"""One sample of UniTok's LLM as token ids, labels and image tokens.

Liquid's templates (arXiv 2412.04332) as the published code of UniTok's multimodal LLM
(arXiv 2502.20321) has them. A picture is one position for each place of its grid, which
holds all codes of that place. Nothing here reads files.

    drawing   [BOS] request [BOI]{image}[EOI][end]       loss on BOI, codes, EOI, end
    caption   [BOS][BOI]{image}[EOI] caption [end]       loss on the caption and end
    question  [BOS] … {image} question … answer [end]    loss on the answer and end
    text      [BOS] text [end]                           loss on all of it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np

from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitoken.sequence import IGNORE, NO_SLOT, PICTURE, PLACEHOLDER

LiquidTask = Literal["draw", "caption", "question", "text"]
LIQUID_TASKS: tuple[LiquidTask, ...] = get_args(LiquidTask)

_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: " + PLACEHOLDER + "\n{question} ASSISTANT:"
)


@dataclass(frozen=True)
class LiquidMixture:
    """Relative numbers of samples of each task; 0 leaves a task out.

    Attributes:
        draw: generation from a caption.
        caption: understanding, a caption follows the picture.
        question: understanding, an answer follows picture and question.
        text: the captions of records without a picture, as plain text.
    """

    draw: float = 2.0
    caption: float = 1.0
    question: float = 1.0
    text: float = 0.0

    def __post_init__(self) -> None:
        ratios = [getattr(self, task) for task in LIQUID_TASKS]
        if not all(map(math.isfinite, ratios)) or min(ratios) < 0 or not any(ratios):
            raise ValueError(
                "ratios of a mixture must be finite and not negative, and one must be "
                f"positive; they are {dict(zip(LIQUID_TASKS, ratios, strict=True))}"
            )

    @property
    def ratios(self) -> dict[LiquidTask, float]:
        """The tasks that take part, with their relative numbers of samples."""
        ratios: dict[LiquidTask, float] = {
            task: float(getattr(self, task)) for task in LIQUID_TASKS
        }
        return {task: ratio for task, ratio in ratios.items() if ratio}


@dataclass(frozen=True)
class LiquidConfig:
    """How pictures and texts become one sequence; the defaults are the published code.

    Attributes:
        request: what asks for a picture; holds {caption}.
        request_limit: ids of it that are kept, BOS included; the rest is cut off.
        unconditional: what stands in its place when the prompt is dropped. It is
            ordinary text, no id of its own.
        question: what asks about a picture, up to the answer; holds <|image|> and
            {question}.
        caption_question: the question that a caption answers, when sampling; training
            puts captions right behind their pictures.
        markers_in_question: whether BOI and EOI stand around a picture in a question;
            the published code has them only where pictures are drawn or captioned.
        mixture: how many samples of each task.
    """

    request: str = "{caption} Generate an image based on this description."
    request_limit: int = 1750
    unconditional: str = "<unconditional>"
    question: str = _VICUNA
    caption_question: str = "Describe the image."
    markers_in_question: bool = False
    mixture: LiquidMixture = field(default_factory=LiquidMixture)

    def __post_init__(self) -> None:
        for name, template, hole, pictures in (
            ("request", self.request, "{caption}", 0),
            ("question", self.question, "{question}", 1),
        ):
            if template.count(hole) != 1 or template.count(PLACEHOLDER) != pictures:
                raise ValueError(
                    f"{name} {template!r} must hold {hole} once and {PLACEHOLDER} "
                    f"{pictures} times"
                )
        if self.request_limit < 1:
            raise ValueError(f"request_limit must be positive: {self.request_limit}")


class Turns(NamedTuple):
    """What is given and what is learnt, int32 ids with `PICTURE` for the picture."""

    given: np.ndarray
    learnt: np.ndarray


class LiquidSample(NamedTuple):
    """A sequence; three int32 arrays of one length, and one of the places that draw.

    tokens: ids, 0 at image tokens. labels: the text id that is to be predicted *at* a
    position, or `IGNORE`. slots: which image token of the picture stands here, or
    `NO_SLOT`. draws: the places whose next one is an image token with loss.
    """

    tokens: np.ndarray
    labels: np.ndarray
    slots: np.ndarray
    draws: np.ndarray


def draw_turns(
    caption: str | None, vocabulary: ImageTextVocabulary, config: LiquidConfig
) -> Turns:
    """A picture of a caption; None for the unconditional request."""
    text = config.unconditional
    if caption is not None:
        text = config.request.replace("{caption}", caption)
    ids = vocabulary.encode(text)[: config.request_limit - 1]
    return Turns(_ids(ids), _picture(vocabulary, markers=True))


def caption_turns(caption: str, vocabulary: ImageTextVocabulary) -> Turns:
    """The caption of a picture."""
    return Turns(_picture(vocabulary, markers=True), _ids(vocabulary.encode(caption)))


def question_turns(
    question: str, answer: str, vocabulary: ImageTextVocabulary, config: LiquidConfig
) -> Turns:
    """The answer to a question about a picture."""
    before, after = config.question.split(PLACEHOLDER)
    filled = [part.replace("{question}", question) for part in (before, after)]
    given = [
        _ids(vocabulary.encode(filled[0])),
        _picture(vocabulary, markers=config.markers_in_question),
        _ids(vocabulary.encode(filled[1])),
    ]
    return Turns(np.concatenate(given), _ids(vocabulary.encode(answer)))


def text_turns(text: str, vocabulary: ImageTextVocabulary) -> Turns:
    """A text without a picture."""
    return Turns(_ids([]), _ids(vocabulary.encode(text)))


def length(turns: Turns, size: int) -> int:
    """Positions that a sample takes whose picture has `size` image tokens."""
    pictures = sum(int(np.count_nonzero(ids == PICTURE)) for ids in turns)
    return 2 + len(turns.given) + len(turns.learnt) + pictures * (size - 1)


def lay_out(turns: Turns, size: int, vocabulary: ImageTextVocabulary) -> LiquidSample:
    """Returns a sample as one sequence.

    Args:
        turns: what is given and learnt; a picture at most.
        size: image tokens of the picture.
        vocabulary: names BOS and end.
    """
    tokens = np.concatenate(
        [[vocabulary.bos], turns.given, turns.learnt, [vocabulary.end]], dtype=np.int32
    )
    is_learnt = np.arange(len(tokens)) > len(turns.given)
    labels = np.where(is_learnt, tokens, np.int32(IGNORE))
    at = np.flatnonzero(tokens == PICTURE)
    count = np.ones(len(tokens), np.int64)
    count[at] = size
    tokens, labels = (np.repeat(array, count) for array in (tokens, labels))
    slots = np.full(len(tokens), NO_SLOT, np.int32)
    draws = np.zeros(0, np.int32)
    for start in at[:1]:
        place = slice(start, start + size)
        tokens[place], labels[place] = 0, IGNORE
        slots[place] = np.arange(size)
        if is_learnt[start]:
            draws = np.arange(start - 1, start + size - 1, dtype=np.int32)
    return LiquidSample(tokens, labels, slots, draws)


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def _picture(vocabulary: ImageTextVocabulary, *, markers: bool) -> np.ndarray:
    return _ids([vocabulary.boi, PICTURE, vocabulary.eoi] if markers else [PICTURE])
