r"""One sample of UniTok's LLM as token ids, labels and image tokens.

Liquid's templates (arXiv 2412.04332) as the published code of UniTok's multimodal LLM
(arXiv 2502.20321) has them. A picture is one position for each place of its grid, which
holds all codes of that place. Nothing here reads files.

    drawing   [BOS] request [BOI]{image}[EOI][end]       loss on BOI, codes, EOI, end
    caption   [BOS][BOI]{image}[EOI] caption [end]       loss on the caption and end
    question  [BOS] … {image} question … answer [end]    loss on the answer and end
    text      [BOS] text [end]                           loss on all of it
    dialogue  [BOS] system USER: … ASSISTANT: … [end] USER: … ASSISTANT: … [end]
                                                         loss on answers and their ends

In a dialogue the user's images stand as in questions, the assistant's as in drawings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np

from data_pipelines.config import TaskMixture
from data_pipelines.dialogues import Parts, dialogue, images_of, joined, merged
from data_pipelines.packing import IGNORE, NO_FEATURE, Sample
from data_pipelines.storage.records import Message
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitoken.sequence import IMAGE_MARK, PLACEHOLDER

Task = Literal["draw", "caption", "question", "text", "dialogue"]
TASKS: tuple[Task, ...] = get_args(Task)

_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions."
)
_VICUNA = _SYSTEM + " USER: " + PLACEHOLDER + "\n{question} ASSISTANT:"


@dataclass(frozen=True)
class MLLMMixture(TaskMixture):
    """Relative numbers of samples of each task; 0 leaves a task out.

    Attributes:
        draw: generation from a caption.
        caption: understanding, a caption follows the picture.
        question: understanding, an answer follows picture and question.
        text: the captions of records without a picture, as plain text.
        dialogue: a record's messages. Those with an image in an answer are generation,
            all others understanding; they are mixed as the data has them.
    """

    draw: float = 2.0
    caption: float = 1.0
    question: float = 1.0
    text: float = 0.0
    dialogue: float = 0.0


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
        system: what a dialogue begins with that has no instructions of its own.
        user: what stands around a user's message in a dialogue; holds {message}.
        assistant: what stands before an answer in it.
        images_first: whether the image of a user's message moves to its front, a
            newline behind it and the text stripped, as in the published code, which
            knows one image; several stay where they are.
        mixture: how many samples of each task.
    """

    request: str = "{caption} Generate an image based on this description."
    request_limit: int = 1750
    unconditional: str = "<unconditional>"
    question: str = _VICUNA
    caption_question: str = "Describe the image."
    markers_in_question: bool = False
    system: str = _SYSTEM
    user: str = "USER: {message}"
    assistant: str = "ASSISTANT:"
    images_first: bool = True
    mixture: MLLMMixture = field(default_factory=MLLMMixture)

    def __post_init__(self) -> None:
        for name, template, hole, pictures in (
            ("request", self.request, "{caption}", 0),
            ("question", self.question, "{question}", 1),
            ("user", self.user, "{message}", 0),
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


class Span(NamedTuple):
    """A part of a sample: int32 ids with `IMAGE_MARK`s, and whether it is learnt."""

    ids: np.ndarray
    learnt: bool


class Conversation(NamedTuple):
    """A sample, and which of its record's images each mark stands for."""

    spans: Sequence[Span]
    images: Sequence[int]

    @property
    def drawn(self) -> int:
        """How many of the images are learnt."""
        return sum(count_marks(span.ids) for span in self.spans if span.learnt)


def count_marks(ids: np.ndarray) -> int:
    """The images among ids."""
    return int(np.count_nonzero(ids == IMAGE_MARK))


def dialogue_spans(
    messages: Sequence[Message], vocabulary: ImageTextVocabulary, config: PromptsConfig
) -> Conversation:
    """All messages of a record, by the template of Vicuna.

    Its instructions stand in the place of the usual ones, and an assistant who begins
    answers them. A text is text, even one that holds `<|image|>`.
    """
    system, turns = dialogue(messages)
    before: Parts = system or merged([config.system])
    around = config.user.split("{message}")
    spans: list[Span] = []
    images: list[int] = []
    for said, answer in zip(turns[::2], turns[1::2], strict=True):
        given = before
        if said or spans:
            message = _image_first(said) if config.images_first else said
            asked = merged([around[0], *message, around[1]])
            given = joined(given, " ", asked)
        given = joined(given, " ", merged([config.assistant]))
        learnt = _encode(answer, vocabulary, markers=True)
        spans += [
            Span(_encode(given, vocabulary, markers=config.markers_in_question), False),
            Span(np.append(learnt, np.int32(vocabulary.end)), True),
        ]
        images += images_of(given) + images_of(answer)
        before = []
    return Conversation(spans, images)


def _image_first(said: Parts) -> Parts:
    images = images_of(said)
    if len(images) != 1:
        return said
    text = "".join(part for part in said if isinstance(part, str))
    return [*images, f"\n{text.strip()}"]


def _encode(
    parts: Parts, vocabulary: ImageTextVocabulary, *, markers: bool
) -> np.ndarray:
    """Texts and images one by one, so that no token spans an image."""
    ids = [
        _image(vocabulary, markers=markers)
        if isinstance(part, int)
        else _ids(vocabulary.encode(part))
        for part in parts
    ]
    return np.concatenate([_ids([]), *ids])


def spans_of(turns: Turns, vocabulary: ImageTextVocabulary) -> list[Span]:
    """What is given and what is learnt, with the end that is learnt as well."""
    learnt = np.append(turns.learnt, np.int32(vocabulary.end))
    return [Span(turns.given, False), Span(learnt, True)]


def length(spans: Sequence[Span], size: int) -> int:
    """Positions that a sample takes whose pictures have `size` image tokens each."""
    return 1 + sum(len(s.ids) + count_marks(s.ids) * (size - 1) for s in spans)


def lay_out(
    spans: Sequence[Span], size: int, vocabulary: ImageTextVocabulary
) -> Sample:
    """Returns a sample as one sequence.

    Args:
        spans: what is given and learnt, in order; BOS stands before them.
        size: image tokens of each picture.
        vocabulary: names BOS.
    """
    tokens = np.concatenate([[vocabulary.bos], *(s.ids for s in spans)], dtype=np.int32)
    is_learnt = np.repeat(
        [False, *(s.learnt for s in spans)], [1, *(len(s.ids) for s in spans)]
    )
    at = np.flatnonzero(tokens == IMAGE_MARK)
    count = np.ones(len(tokens), np.int64)
    count[at] = size
    drawn = is_learnt[at]
    labels = np.where(is_learnt, tokens, np.int32(IGNORE))
    tokens, labels = (np.repeat(array, count) for array in (tokens, labels))
    # Where each picture begins once those before it are of `size` places: [M] → [M, S]
    places = (at + np.arange(len(at)) * (size - 1))[:, None] + np.arange(size)
    feature_index = np.full(len(tokens), NO_FEATURE, np.int32)
    feature_index[places.ravel()] = np.arange(places.size)
    tokens[places], labels[places] = 0, IGNORE
    targets = (places[drawn] - 1).ravel().astype(np.int32)
    return Sample(tokens, labels, feature_index, targets)


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def _image(vocabulary: ImageTextVocabulary, *, markers: bool) -> np.ndarray:
    return _ids(
        [vocabulary.boi, IMAGE_MARK, vocabulary.eoi] if markers else [IMAGE_MARK]
    )
