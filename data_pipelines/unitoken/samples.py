"""The samples that records give, with their lengths, before any picture is decoded.

Each caption gives a sample of 'caption' (what is it?) and one of 'draw', each question
one of 'question'. Texts are tokenised here, once each, and kept as ids.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data_pipelines.config import TaskMixture
from data_pipelines.images import anyres
from data_pipelines.packed_rows import SampleTable
from data_pipelines.storage.records import Record, grid_of, has_codes, has_image
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.unitoken.sequence import (
    IMAGE_MARK,
    PLACEHOLDER,
    LayoutConfig,
    SequenceError,
    Turn,
    encode_text,
    image_length,
)

Task = Literal["caption", "question", "draw"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class MixtureConfig(TaskMixture):
    """Relative numbers of samples of each task; 0 leaves a task out.

    Attributes:
        caption: understanding, the answer is a caption.
        question: understanding, the answer is that of one of the record's questions.
        draw: generation from a caption.
    """

    caption: float = 1.0
    question: float = 1.0
    draw: float = 2.0


@dataclass(frozen=True)
class Samples(SampleTable):
    """A table of samples; arrays are int32 [n] unless said otherwise.

    Attributes:
        text: which of the record's captions or questions.
        prompt: the user's turn, a number in `texts`.
        answer: the assistant's turn, likewise.
        texts: distinct messages as `sequence.encode_text` gives them.
    """

    text: np.ndarray
    prompt: np.ndarray
    answer: np.ndarray
    texts: Sequence[np.ndarray]

    def of_task(self, task: Task) -> np.ndarray:
        """Returns the numbers of the samples of one task."""
        return np.flatnonzero(self.task == TASKS.index(task))

    def turns(self, sample: int, *, drop_prompt: bool = False) -> list[Turn]:
        """Returns the two turns of a sample, the first one emptied if asked."""
        prompt = self.texts[self.prompt[sample]]
        answer = self.texts[self.answer[sample]]
        return [
            Turn(prompt[:0] if drop_prompt else prompt, learnt=False),
            Turn(answer, learnt=True),
        ]


def messages(record: Record, task: Task, layout: LayoutConfig) -> list[tuple[str, str]]:
    """Returns the (user's, assistant's) messages of each sample of a task."""
    if task == "question":
        return [
            (ask(question["question"], layout), question["answer"])
            for question in record["questions"]
        ]
    if task == "caption":
        asked = ask(layout.caption_question, layout)
        return [(asked, caption) for caption in record["captions"]]
    return [(request(c, layout), PLACEHOLDER) for c in record["captions"]]


def ask(question: str, layout: LayoutConfig) -> str:
    """Returns the message that asks about a picture."""
    return layout.question_template.format(question=question)


def request(caption: str, layout: LayoutConfig) -> str:
    """Returns the message that asks for a picture."""
    return layout.prompt_template.format(caption=caption)


@dataclass(frozen=True)
class Row:
    """What one packed row can hold: T positions and I views."""

    length: int
    views: int


def tabulate(
    records: Iterable[tuple[int, Record]],
    tasks: Sequence[Task],
    vocabulary: ChameleonVocabulary,
    layout: LayoutConfig,
    *,
    views: anyres.ViewsConfig,
    canvas_size: Callable[[Record], tuple[int, int]],
    row: Row,
    refuse: Callable[[int, SequenceError], None],
) -> Samples:
    """Lists the samples of all records, in the order of records and tasks.

    Args:
        records: with their indices.
        tasks: which samples are wanted.
        vocabulary: encodes the texts.
        layout: how sequences are laid out.
        views: how pictures become views.
        canvas_size: gives the (width, height) of the picture that views are cut from.
        row: what a sample must fit into.
        refuse: told the record's index and the reason of every sample that is left
            out, because it fits no row or its record has no codes.
    """
    texts: list[np.ndarray] = []
    marks: list[int] = []
    numbers: dict[str, int] = {}

    def number(message: str) -> int:
        if message not in numbers:
            numbers[message] = len(texts)
            texts.append(encode_text(message, vocabulary))
            marks.append(int(np.count_nonzero(texts[-1] == IMAGE_MARK)))
        return numbers[message]

    table: list[tuple[int, ...]] = []
    for index, record in records:
        if not has_image(record):
            continue  # text alone is of none of these tasks
        size = canvas_size(record)
        for task in tasks:
            for text, (prompt, answer) in enumerate(messages(record, task, layout)):
                turns = number(prompt), number(answer)
                try:
                    length, shown = _measure(record, task, layout, views, size)
                    # BOS, two ends, and the messages without the picture's mark.
                    length += 2 + len(texts[turns[0]]) + len(texts[turns[1]])
                    _check_marks(record["id"], marks[turns[0]] + marks[turns[1]])
                    _check_room(record["id"], length, shown, row)
                except SequenceError as error:
                    refuse(index, error)
                    continue
                table.append((index, TASKS.index(task), length, shown, text, *turns))
    columns = np.array(table, np.int32).reshape(-1, 7).T.copy()  # [n, 7] → [7, n]
    return Samples(*columns, texts=tuple(texts))


def _measure(
    record: Record,
    task: Task,
    layout: LayoutConfig,
    views: anyres.ViewsConfig,
    size: tuple[int, int],
) -> tuple[int, int]:
    """Returns the positions a record's picture takes, and the views it shows."""
    drawn = task == "draw"
    needs_codes, has_features = layout.parts(drawn=drawn)
    grid = grid_of(record) if has_codes(record) else (0, 0)
    if needs_codes and not has_codes(record):
        raise SequenceError(
            f"record {record['id']!r} holds no codes; pre-tokenise the data set first"
        )
    if len(grid) != 2:
        raise SequenceError(
            f"record {record['id']!r} holds codes of {grid[2]} codebooks, which no ids "
            "stand for; pre-tokenise the data set with a vqgan"
        )
    features = anyres.continuous_length(*size, views) if has_features else 0
    shown = anyres.count_views(*size, views) if has_features else 0
    return image_length(grid[0], grid[1], features, layout, drawn=drawn), shown


def _check_marks(name: str, marks: int) -> None:
    if marks != 1:
        raise SequenceError(
            f"record {name!r}: a text holds {PLACEHOLDER}, which stands for a picture; "
            "remove it from the text"
        )


def _check_room(name: str, length: int, shown: int, row: Row) -> None:
    if length > row.length:
        raise SequenceError(
            f"record {name!r}: a sample takes {length} positions, but a row has "
            f"{row.length}; raise data.row_length or shorten the text"
        )
    if shown > row.views:
        raise SequenceError(
            f"record {name!r}: its picture shows {shown} views, but a row holds "
            f"{row.views}; raise data.row_views"
        )
