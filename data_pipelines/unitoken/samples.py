"""The samples that records give, with their lengths, before any picture is decoded.

Each caption gives a sample of 'caption' (what is it?) and one of 'draw', each question
one of 'question', all messages of a record one of 'dialogue'. Texts are tokenised here,
once each, and kept as ids.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

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
    encode_dialogue,
    encode_text,
    image_length,
)

Task = Literal["caption", "question", "draw", "dialogue"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class MixtureConfig(TaskMixture):
    """Relative numbers of samples of each task; 0 leaves a task out.

    Attributes:
        caption: understanding, the answer is a caption.
        question: understanding, the answer is that of one of the record's questions.
        draw: generation from a caption.
        dialogue: a record's messages. Those with an image in an answer are generation,
            all others understanding; they are mixed as the data has them.
    """

    caption: float = 1.0
    question: float = 1.0
    draw: float = 2.0
    dialogue: float = 0.0


class Conversation(NamedTuple):
    """The turns of a sample, and which of the record's images each mark stands for."""

    turns: Sequence[Turn]
    images: Sequence[int]


@dataclass(frozen=True)
class Samples(SampleTable):
    """A table of samples; arrays are int32 [n] unless said otherwise.

    Attributes:
        text: which of the record's captions or questions.
        prompt: the user's turn, a number in `texts`; of a dialogue one in `dialogues`.
        answer: the assistant's turn, likewise; -1 of a dialogue.
        texts: distinct messages as `sequence.encode_text` gives them.
        dialogues: all turns of the samples that have more.
    """

    text: np.ndarray
    prompt: np.ndarray
    answer: np.ndarray
    texts: Sequence[np.ndarray]
    dialogues: Sequence[Conversation]

    def of_task(self, task: Task) -> np.ndarray:
        """Returns the numbers of the samples of one task."""
        return np.flatnonzero(self.task == TASKS.index(task))

    def conversation(self, sample: int, *, drop_prompt: bool = False) -> Conversation:
        """Returns the turns of a sample, of 'draw' with the first emptied if asked."""
        if self.task[sample] == TASKS.index("dialogue"):
            return self.dialogues[self.prompt[sample]]
        prompt = self.texts[self.prompt[sample]]
        answer = self.texts[self.answer[sample]]
        turns = [
            Turn(prompt[:0] if drop_prompt else prompt, learnt=False),
            Turn(answer, learnt=True),
        ]
        return Conversation(turns, [0])


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


CanvasSize = Callable[[Record, int], tuple[int, int]]


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
    canvas_size: CanvasSize,
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
        canvas_size: gives the (width, height) of the picture that views of one of a
            record's images are cut from.
        row: what a sample must fit into.
        refuse: told the record's index and the reason of every sample that is left
            out, because it fits no row or its record has no codes.
    """
    planner = _Planner(vocabulary, layout, views, canvas_size)
    table: list[tuple[int, ...]] = []
    for index, record in records:
        for task in tasks:
            for text, planned in enumerate(planner.samples(record, task)):
                try:
                    length, shown = planner.measure(record, planned)
                    if task != "dialogue":
                        _check_marks(record["id"], planned.marks)
                    _check_room(record["id"], length, shown, row)
                except SequenceError as error:
                    refuse(index, error)
                    continue
                draws = any(drawn for _, drawn in planned.images)
                place = planned.prompt, planned.answer
                number = TASKS.index(task)
                table.append((index, number, length, shown, draws, text, *place))
    columns = np.array(table, np.int32).reshape(-1, 8).T.copy()  # [n, 8] → [8, n]
    record, task, length, shown, draws, *rest = columns
    return Samples(
        *(record, task, length, shown, draws.astype(bool), *rest),
        texts=tuple(planner.texts),
        dialogues=tuple(planner.dialogues),
    )


class _Planned(NamedTuple):
    """A sample before it is known whether it fits a row.

    Attributes:
        prompt, answer: as in `Samples`.
        texts: ids of all turns with their ends, and marks.
        marks: the marks among them.
        images: (number of the record's image, whether it is drawn) of each mark.
    """

    prompt: int
    answer: int
    texts: int
    marks: int
    images: Sequence[tuple[int, bool]]


class _Planner:
    """Lists the samples of records, each text encoded once.

    Attributes:
        texts: see `Samples`.
        dialogues: see `Samples`.
    """

    def __init__(
        self,
        vocabulary: ChameleonVocabulary,
        layout: LayoutConfig,
        views: anyres.ViewsConfig,
        canvas_size: CanvasSize,
    ) -> None:
        self._vocabulary, self._layout, self._views = vocabulary, layout, views
        self._canvas_size = canvas_size
        self._numbers: dict[str, int] = {}
        self._marks: list[int] = []
        self.texts: list[np.ndarray] = []
        self.dialogues: list[Conversation] = []

    def samples(self, record: Record, task: Task) -> Iterator[_Planned]:
        """Yields the samples of a task; images of text alone are of none but one."""
        if task == "dialogue":
            if record["messages"]:
                yield self._dialogue(record)
        elif has_image(record):
            images = [(0, task == "draw")]
            for turns in messages(record, task, self._layout):
                prompt, answer = map(self._number, turns)
                ids = 2 + len(self.texts[prompt]) + len(self.texts[answer])
                marks = self._marks[prompt] + self._marks[answer]
                yield _Planned(prompt, answer, ids, marks, images)

    def _dialogue(self, record: Record) -> _Planned:
        said = Conversation(*encode_dialogue(record["messages"], self._vocabulary))
        self.dialogues.append(said)
        ids = sum(len(turn.ids) + 1 for turn in said.turns)
        images = marked_images(said)
        return _Planned(len(self.dialogues) - 1, -1, ids, len(images), images)

    def _number(self, message: str) -> int:
        if message not in self._numbers:
            self._numbers[message] = len(self.texts)
            self.texts.append(encode_text(message, self._vocabulary))
            self._marks.append(int(np.count_nonzero(self.texts[-1] == IMAGE_MARK)))
        return self._numbers[message]

    def measure(self, record: Record, planned: _Planned) -> tuple[int, int]:
        """Returns the positions that a sample takes, and the views it shows.

        Raises:
            SequenceError: a picture lacks its codes, or a size to cut views from.
        """
        length = 1 + planned.texts - len(planned.images)  # BOS; marks give way
        views = 0
        for image, drawn in planned.images:
            more, shown = self._measure_image(record, image, drawn)
            length, views = length + more, views + shown
        return length, views

    def _measure_image(
        self, record: Record, image: int, drawn: bool
    ) -> tuple[int, int]:
        needs_codes, has_features = self._layout.parts(drawn=drawn)
        is_coded = has_codes(record, image)
        grid = grid_of(record, image) if is_coded else (0, 0)
        if needs_codes and not is_coded:
            raise SequenceError(
                f"record {record['id']!r} holds no codes; pre-tokenise the data set "
                "first"
            )
        if len(grid) != 2:
            raise SequenceError(
                f"record {record['id']!r} holds codes of {grid[2]} codebooks, which no "
                "ids stand for; pre-tokenise the data set with a vqgan"
            )
        features = shown = 0
        if has_features:
            size = self._canvas_size(record, image)
            if not all(size):
                raise SequenceError(
                    f"record {record['id']!r} has codes alone of a picture, and no "
                    "pixels for the continuous encoder; set data.layout.encoding to "
                    "'discrete'"
                )
            features = anyres.continuous_length(*size, self._views)
            shown = anyres.count_views(*size, self._views)
        return image_length(
            grid[0], grid[1], features, self._layout, drawn=drawn
        ), shown


def marked_images(said: Conversation) -> list[tuple[int, bool]]:
    """Returns (number of the image, whether it is drawn) of each mark, in order."""
    drawn = [
        turn.learnt
        for turn in said.turns
        for _ in range(np.count_nonzero(turn.ids == IMAGE_MARK))
    ]
    return list(zip(said.images, drawn, strict=True))


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
            f"record {name!r}: a sample shows {shown} views, but a row holds "
            f"{row.views}; raise data.row_views"
        )
