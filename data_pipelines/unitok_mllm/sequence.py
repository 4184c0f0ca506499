r"""One sample of UniTok's LLM as token ids, labels and image tokens.

Liquid's templates (arXiv 2412.04332) as the published code of UniTok's multimodal LLM
(arXiv 2502.20321) has them. A picture is one position for each place of its grid, which
holds all codes of that place. Nothing here reads files.

    drawing   [BOS] request [BOI]{image}[EOI][end]       loss on BOI, codes, EOI, end
    caption   [BOS][BOI]{image}[EOI] caption [end]       loss on the caption and end
    question  [BOS] … {image} question … answer [end]    loss on the answer and end
    text      [BOS] text [end]                           loss on all of it
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np

from data_pipelines.config import TaskMixture
from data_pipelines.packing import IGNORE, NO_FEATURE, Sample
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitoken.sequence import IMAGE_MARK, PLACEHOLDER

Task = Literal["draw", "caption", "question", "text"]
TASKS: tuple[Task, ...] = get_args(Task)

_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: " + PLACEHOLDER + "\n{question} ASSISTANT:"
)


@dataclass(frozen=True)
class MLLMMixture(TaskMixture):
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


@dataclass(frozen=True)
class PromptsConfig:
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
    mixture: MLLMMixture = field(default_factory=MLLMMixture)

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
    """What is given and what is learnt, int32 ids with `IMAGE_MARK` for the picture."""

    given: np.ndarray
    learnt: np.ndarray


def draw_turns(
    caption: str | None, vocabulary: ImageTextVocabulary, config: PromptsConfig
) -> Turns:
    """A picture of a caption; None for the unconditional request."""
    text = config.unconditional
    if caption is not None:
        text = config.request.replace("{caption}", caption)
    ids = vocabulary.encode(text)[: config.request_limit - 1]
    return Turns(_ids(ids), _image(vocabulary, markers=True))


def caption_turns(caption: str, vocabulary: ImageTextVocabulary) -> Turns:
    """The caption of a picture."""
    return Turns(_image(vocabulary, markers=True), _ids(vocabulary.encode(caption)))


def question_turns(
    question: str, answer: str, vocabulary: ImageTextVocabulary, config: PromptsConfig
) -> Turns:
    """The answer to a question about a picture."""
    before, after = config.question.split(PLACEHOLDER)
    filled = [part.replace("{question}", question) for part in (before, after)]
    given = [
        _ids(vocabulary.encode(filled[0])),
        _image(vocabulary, markers=config.markers_in_question),
        _ids(vocabulary.encode(filled[1])),
    ]
    return Turns(np.concatenate(given), _ids(vocabulary.encode(answer)))


def text_turns(text: str, vocabulary: ImageTextVocabulary) -> Turns:
    """A text without a picture."""
    return Turns(_ids([]), _ids(vocabulary.encode(text)))


def length(turns: Turns, size: int) -> int:
    """Positions that a sample takes whose picture has `size` image tokens."""
    pictures = sum(int(np.count_nonzero(ids == IMAGE_MARK)) for ids in turns)
    return 2 + len(turns.given) + len(turns.learnt) + pictures * (size - 1)


def lay_out(turns: Turns, size: int, vocabulary: ImageTextVocabulary) -> Sample:
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
    at = np.flatnonzero(tokens == IMAGE_MARK)
    count = np.ones(len(tokens), np.int64)
    count[at] = size
    tokens, labels = (np.repeat(array, count) for array in (tokens, labels))
    feature_index = np.full(len(tokens), NO_FEATURE, np.int32)
    positions = np.zeros(0, np.int32)
    for start in at[:1]:
        place = slice(start, start + size)
        tokens[place], labels[place] = 0, IGNORE
        feature_index[place] = np.arange(size)
        if is_learnt[start]:
            positions = np.arange(start - 1, start + size - 1, dtype=np.int32)
    return Sample(tokens, labels, feature_index, positions)


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def _image(vocabulary: ImageTextVocabulary, *, markers: bool) -> np.ndarray:
    return _ids(
        [vocabulary.boi, IMAGE_MARK, vocabulary.eoi] if markers else [IMAGE_MARK]
    )
