"""One sample as token ids, labels and places of continuous features.

UniToken's template and label rules (arXiv 2504.04423 and its published code): turns end
in an end token, a picture is `[BOI][size][size]{codes, newline}×rows[EOI]`, and its
continuous features are spliced in before EOI, behind SEP. Nothing here reads files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from data_pipelines.dialogues import dialogue, images_of, joined
from data_pipelines.errors import DataError
from data_pipelines.images.anyres import NEWLINE
from data_pipelines.packing import IGNORE, NO_FEATURE, Sample
from data_pipelines.storage.records import Message
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary

IMAGE_MARK = -1  # in an encoded turn: here stands the next picture
PLACEHOLDER = "<|image|>"
SIZE_STEP = 32  # pixels that a size token counts in


class SequenceError(DataError):
    """A sample cannot be laid out; the message names its record."""


@dataclass(frozen=True)
class LayoutConfig:
    """How pictures and texts become one sequence.

    Attributes:
        encoding: 'dual' shows a picture as codes and continuous features, 'discrete' as
            codes only. 'continuous' reads pictures as features only and draws them as
            codes only: the decoupled encoding the paper compares with.
        labels: where the loss is. 'paper': on the assistant's turns, that is answers or
            a drawn picture's ids. 'released': as the published code does, also on
            every SEP, in prompts too. Continuous positions never carry loss.
        size_tokens: whether two size tokens, height then width, follow BOI.
        continuous_in_generation: whether a drawn picture is followed by its features,
            as in the published training data. They can influence EOI and the end
            token only, and nothing when sampling.
        code_stride: pixels along one side of a code.
        prompt_template: what asks for a picture; holds {caption}.
        question_template: what asks about a picture; holds <|image|> and {question}.
        caption_question: the question that a caption answers.
    """

    encoding: Literal["dual", "discrete", "continuous"] = "dual"
    labels: Literal["paper", "released"] = "paper"
    size_tokens: bool = True
    continuous_in_generation: bool = True
    code_stride: int = 16
    prompt_template: str = (
        "Generate an image according to the following prompt:\n{caption}"
    )
    question_template: str = PLACEHOLDER + "{question}"
    caption_question: str = "Describe the image."

    def __post_init__(self) -> None:
        _check_template("prompt_template", self.prompt_template, "caption", 0)
        _check_template("question_template", self.question_template, "question", 1)
        if self.code_stride < 1:
            raise ValueError(f"code_stride must be positive, not {self.code_stride}")

    def parts(self, *, drawn: bool) -> tuple[bool, bool]:
        """Whether a picture has (codes, continuous features), drawn or being read."""
        if self.encoding == "discrete":
            return True, False
        if self.encoding == "continuous":
            return drawn, not drawn
        return True, self.continuous_in_generation or not drawn


def _check_template(name: str, template: str, field: str, pictures: int) -> None:
    try:
        filled = template.format(**{field: "\0"})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name} {template!r} has no meaning ({error!r}); it may hold {{{field}}} "
            "once, and braces that are text are doubled"
        ) from error
    if filled.count("\0") != 1:
        raise ValueError(f"{name} {template!r} must hold {{{field}}} once")
    if template.count(PLACEHOLDER) != pictures:
        raise ValueError(
            f"{name} {template!r} must hold {PLACEHOLDER} {pictures} times"
        )


class Turn(NamedTuple):
    """One message: encoded ids, int32 with `IMAGE_MARK`s, and whether it is learnt.

    The assistant's turns are learnt: they carry loss, and their pictures are drawn.
    """

    ids: np.ndarray
    learnt: bool


class ImageContent(NamedTuple):
    """What a sequence needs of one picture; unused parts may be None.

    codes: codebook indices, int [rows, columns].
    feature_index: its continuous block, int32 [N], as `anyres.feature_indices` gives
    it, moved by `anyres.shift_features` if other views of the sample come first.
    """

    codes: np.ndarray | None
    feature_index: np.ndarray | None


def encode_text(text: str, vocabulary: ChameleonVocabulary) -> np.ndarray:
    """Returns the ids of one message, int32, with `IMAGE_MARK` for every `<|image|>`.

    The pieces between placeholders are tokenised one by one, so that no token spans a
    picture.
    """
    pieces = text.split(PLACEHOLDER)
    ids = vocabulary.encode(pieces[0])
    for piece in pieces[1:]:
        ids = [*ids, IMAGE_MARK, *vocabulary.encode(piece)]
    return np.array(ids, np.int32)


def encode_dialogue(
    messages: Sequence[Message], vocabulary: ChameleonVocabulary
) -> tuple[list[Turn], list[int]]:
    """Returns the turns of a record's messages, and the image of each of their marks.

    The published template names no sides, so that turns must alternate (see
    `dialogues.dialogue`); it knows no instructions, which stand at the head of the
    first turn, a newline behind them. A text is text, even one that holds `<|image|>`.
    """
    system, said = dialogue(messages)
    said[0] = joined(system, "\n", said[0])
    turns = [
        Turn(encode_parts(parts, vocabulary), learnt=number % 2 == 1)
        for number, parts in enumerate(said)
    ]
    return turns, [image for parts in said for image in images_of(parts)]


def encode_parts(
    parts: Sequence[str | int], vocabulary: ChameleonVocabulary
) -> np.ndarray:
    """Returns the ids of texts and images, int32, with `IMAGE_MARK` for each image."""
    ids: list[int] = []
    for part in parts:
        ids += [IMAGE_MARK] if isinstance(part, int) else vocabulary.encode(part)
    return np.array(ids, np.int32)


def encode_conversation(
    messages: Sequence[str],
    pictures: int,
    vocabulary: ChameleonVocabulary,
    name: str = "",
) -> list[Turn]:
    """Returns the turns of a conversation that the user begins.

    Args:
        messages: user and assistant in turn. Without a last answer the result is the
            prompt for it.
        pictures: how many pictures belong to it. If no message holds a placeholder,
            they all go in front of the first message.
        vocabulary: encodes the texts.
        name: the record, for messages.

    Raises:
        SequenceError: the placeholders are not as many as the pictures.
    """
    texts = list(messages)
    placeholders = sum(text.count(PLACEHOLDER) for text in texts)
    if pictures and texts and not placeholders:
        texts[0] = f"{PLACEHOLDER} " * pictures + texts[0]
    elif placeholders != pictures:
        raise SequenceError(
            f"{_prefix(name)}{placeholders} placeholders {PLACEHOLDER} for {pictures} "
            "pictures; write one where each picture belongs, or none"
        )
    return [
        Turn(encode_text(text, vocabulary), learnt=number % 2 == 1)
        for number, text in enumerate(texts)
    ]


def lay_out(
    turns: Sequence[Turn],
    pictures: Sequence[ImageContent],
    vocabulary: ChameleonVocabulary,
    layout: LayoutConfig,
    name: str = "",
) -> Sample:
    """Returns a conversation as one sequence.

    Args:
        turns: the messages, with as many `IMAGE_MARK`s in all as there are pictures.
        pictures: in the order of the marks.
        vocabulary: names the ids.
        layout: the options.
        name: the record, for messages.

    Raises:
        SequenceError: marks and pictures differ in number, or a picture lacks a part.
    """
    marks = sum(int(np.count_nonzero(turn.ids == IMAGE_MARK)) for turn in turns)
    if marks != len(pictures):
        raise SequenceError(
            f"{_prefix(name)}{marks} marks for {len(pictures)} pictures"
        )
    remaining = iter(pictures)
    end = np.array([vocabulary.end], np.int32)
    ids = [np.array([vocabulary.bos], np.int32)]
    learnt = [False]
    blocks: list[np.ndarray | None] = []
    for turn in turns:
        for piece in np.split(turn.ids, _borders(turn.ids)):
            if len(piece) and piece[0] == IMAGE_MARK:
                picture = next(remaining)
                has_codes, has_features = layout.parts(drawn=turn.learnt)
                if has_codes and picture.codes is None:
                    raise SequenceError(
                        f"{_prefix(name)}its picture has no codes; pre-tokenise the "
                        "data set first"
                    )
                if has_features and picture.feature_index is None:
                    raise SequenceError(
                        f"{_prefix(name)}its picture has no continuous features, but "
                        f"encoding {layout.encoding!r} needs them"
                    )
                codes = picture.codes if has_codes else None
                ids.append(image_ids(codes, vocabulary, layout))
                blocks.append(picture.feature_index if has_features else None)
            else:
                ids.append(piece)
            learnt.append(turn.learnt)
        ids.append(end)
        learnt.append(turn.learnt)
    tokens = np.concatenate(ids)
    supervised = np.repeat(learnt, [len(part) for part in ids])
    labels = np.where(supervised, tokens, np.int32(IGNORE))
    return splice(tokens, labels, blocks, vocabulary, layout.labels)


def _borders(ids: np.ndarray) -> np.ndarray:
    """Where to split encoded text so that every `IMAGE_MARK` stands alone."""
    marks = np.flatnonzero(ids == IMAGE_MARK)
    return np.stack([marks, marks + 1], 1).ravel()


def image_ids(
    codes: np.ndarray | None, vocabulary: ChameleonVocabulary, layout: LayoutConfig
) -> np.ndarray:
    """Returns BOI, size tokens, codes with a newline after every row, EOI; int32.

    Without codes only BOI and EOI remain, between which features are spliced.

    Raises:
        SequenceError: the sides are no multiples of 32 px, so that no size token
            names them, or the vocabulary does not name all codes.
    """
    if codes is None:
        return np.array([vocabulary.boi, vocabulary.eoi], np.int32)
    if codes.size and not 0 <= codes.min() <= codes.max() < vocabulary.num_codes:
        raise SequenceError(
            f"a picture has codes from {codes.min()} to {codes.max()}, but the "
            f"vocabulary names {vocabulary.num_codes}; pre-tokenise the data set with "
            "the tokenizer that the vocabulary was made for"
        )
    head = [vocabulary.boi]
    if layout.size_tokens:
        head += size_ids(codes.shape[0], codes.shape[1], vocabulary, layout)
    rows = np.full((codes.shape[0], codes.shape[1] + 1), vocabulary.newline, np.int32)
    rows[:, :-1] = vocabulary.code_ids[codes]  # [h, w + 1]
    return np.concatenate([head, rows.ravel(), [vocabulary.eoi]], dtype=np.int32)


def size_ids(
    rows: int, columns: int, vocabulary: ChameleonVocabulary, layout: LayoutConfig
) -> list[int]:
    """Returns the two size tokens of a picture of `rows` × `columns` codes.

    Raises:
        SequenceError: a side is no multiple of 32 px.
    """
    sides = (rows * layout.code_stride, columns * layout.code_stride)
    if any(side % SIZE_STEP for side in sides):
        raise SequenceError(
            f"{rows} × {columns} codes of {layout.code_stride} px are {sides[0]} × "
            f"{sides[1]} px, but size tokens count in steps of {SIZE_STEP} px; set "
            "size_tokens to false or correct code_stride"
        )
    return [vocabulary.size_token(side // SIZE_STEP) for side in sides]


def splice(
    tokens: np.ndarray,
    labels: np.ndarray,
    blocks: Sequence[np.ndarray | None],
    vocabulary: ChameleonVocabulary,
    rule: Literal["paper", "released"],
) -> Sample:
    """Inserts SEP and continuous blocks before the EOI tokens of discrete ids.

    Args:
        tokens: int32 [n].
        labels: int32 [n].
        blocks: for each EOI in order its picture's block, or None for no features.
        vocabulary: names the ids.
        rule: 'released' puts a label on SEP wherever it stands, 'paper' does not.

    Raises:
        SequenceError: there are not as many EOI tokens as blocks.
    """
    ends = np.flatnonzero(tokens == vocabulary.eoi)
    if len(ends) != len(blocks):
        raise SequenceError(f"{len(ends)} EOI tokens for {len(blocks)} pictures")
    no_feature = np.full(len(tokens), NO_FEATURE, np.int32)
    parts: list[Sample] = []
    start = 0
    for end, block in zip(ends, blocks, strict=True):
        if block is None:
            continue
        before = slice(start, end)
        parts.append(Sample(tokens[before], labels[before], no_feature[before]))
        parts.append(_continuous(block, vocabulary, rule))
        start = end
    rest = slice(start, None)
    parts.append(Sample(tokens[rest], labels[rest], no_feature[rest]))
    return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _continuous(
    block: np.ndarray,
    vocabulary: ChameleonVocabulary,
    rule: Literal["paper", "released"],
) -> Sample:
    """SEP and a continuous block; newlines in it are tokens, but never labels."""
    feature_index = np.concatenate([[NO_FEATURE], block], dtype=np.int32)  # [1 + N]
    tokens = np.where(
        feature_index == NEWLINE, np.int32(vocabulary.newline), np.int32(0)
    )
    tokens[0] = vocabulary.sep
    labels = np.full(len(feature_index), IGNORE, np.int32)
    if rule == "released":
        labels[0] = vocabulary.sep
    return Sample(tokens, labels, feature_index)


def image_length(
    rows: int, columns: int, features: int, layout: LayoutConfig, *, drawn: bool
) -> int:
    """Returns how many positions a picture takes, BOI to EOI.

    Args:
        rows: of its codes.
        columns: of its codes.
        features: length of its continuous block, N.
        layout: the options.
        drawn: whether it is drawn or read.
    """
    has_codes, has_features = layout.parts(drawn=drawn)
    codes = rows * (columns + 1) + 2 * layout.size_tokens if has_codes else 0
    return 2 + codes + (1 + features if has_features else 0)


def _prefix(name: str) -> str:
    return f"record {name!r}: " if name else ""
