"""The kind 'unitok_mllm': packed rows of text and multi-codebook images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data_pipelines.config import GridConfig, PackedConfig, Source
from data_pipelines.elements import BatchSpec, CodeSpec, Elements
from data_pipelines.packed_rows import LaidOut, PackedRows, RowFormat, SampleTable
from data_pipelines.storage import records
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.records import Record, RecordError
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitok_mllm import sequence
from data_pipelines.unitok_mllm.sequence import (
    TASKS,
    Conversation,
    PromptsConfig,
    Span,
    Turns,
)


@dataclass(frozen=True)
class MLLMRowsConfig(PackedConfig):
    """Packed rows of UniTok's LLM.

    Attributes:
        layout: how images become grids of codes.
        prompts: how rows are laid out, and of which tasks.
    """

    kind: Literal["unitok_mllm"] = "unitok_mllm"
    layout: GridConfig = field(default_factory=GridConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)

    @property
    def reads_images(self) -> bool:
        """Whether batches depend on the bytes of images."""
        return False

    def elements(
        self, source: Source, vocabulary: ImageTextVocabulary | None, seed: int
    ) -> Elements:
        """Return packed rows of the tasks of the mixture."""
        assert isinstance(source, Split)
        words = self.require_vocabulary(vocabulary)
        self.check_codes(source)
        with_all = bool(self.prompts.mixture.dialogue)
        cache = self.record_cache(source, lambda r: read_codes(r, every=with_all))
        row_format = MLLMFormat(words, self)
        ratios = self.prompts.mixture.ratios
        rows = PackedRows(cache, row_format, self, ratios, seed)
        codes = CodeSpec(row_format.features, row_format.grid[2], source.codebook_size)
        return Elements(cache, rows.build, rows.tasks, codes)

    def batch_spec(
        self, batch: int, *, tokens: int | None = None, codebooks: int = 1
    ) -> BatchSpec:
        """Return shape and type of every array that a batch brings to the devices."""
        size = self.layout.tokens(self.image_size) if tokens is None else tokens
        views = self.row_views
        return self.row_spec(batch) | {
            "codes": ((batch, views, size, codebooks), np.int32),
            "image_target_positions": ((batch, views * size), np.int32),
        }


@dataclass(frozen=True)
class Coded:
    """A record's pictures as their codes by number, int32 [S, K] each."""

    images: Mapping[int, np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes."""
        return sum(codes.nbytes for codes in self.images.values())


def read_codes(record: Record, *, every: bool = False) -> Coded:
    """The codes of a record, place by place.

    Args:
        record: A record.
        every: Whether of all its pictures, which dialogues may show, and not of the
            first alone, which captions and questions are about.

    Raises:
        RecordError: it has a picture, but no codes.
    """
    numbers = [n for n in range(len(record["images"])) if every or not n]
    coded = [n for n in numbers if records.has_codes(record, n)] or numbers[:1]
    found: dict[int, np.ndarray] = {}
    for number in coded:
        codes = records.codes_of(record, number)
        # [h, w, K] → [h · w, K]
        found[number] = codes.reshape(codes.shape[0] * codes.shape[1], -1)
    return Coded(found)


class MLLMFormat(RowFormat[Coded]):
    """Rows of UniTok's LLM.

    Attributes:
        grid: rows and columns of every image's codes, and their codebooks.
    """

    tasks = TASKS
    mixture = "prompts.mixture"
    images = "codes"
    has_image_targets = True

    def __init__(self, vocabulary: ImageTextVocabulary, config: MLLMRowsConfig) -> None:
        """Take what rows are laid out by.

        Args:
            vocabulary: encodes the texts.
            config: of the data.
        """
        self._vocabulary = vocabulary
        self._config = config
        self.grid = (0, 0, 0)
        self._samples: list[Conversation] = []
        unconditional = sequence.draw_turns(None, vocabulary, config.prompts)
        self._unconditional = self._spans(unconditional)

    @property
    def features(self) -> int:
        """Image tokens of an image, S."""
        return self.grid[0] * self.grid[1]

    def tabulate(self, cache: RecordCache[Coded]) -> SampleTable:
        """List the samples of all records, in the order of records and tasks."""
        rows: list[tuple[int, ...]] = []
        for index, record in cache.scan():
            try:
                self._check_grid(record)
            except RecordError as fault:
                cache.set_aside(index, fault)
                continue
            for task in self._config.prompts.mixture.ratios:
                for said in self._samples_of(record, task):
                    length = sequence.length(said.spans, self.features)
                    images = len(said.images)
                    try:
                        self._check(record, said, length)
                    except RecordError as fault:
                        cache.report(index, fault)
                        continue
                    planned = self._planned(task, length)
                    number, draws = TASKS.index(task), bool(said.drawn)
                    rows.append((index, number, planned, images, draws))
                    self._samples.append(said)
        # [n, 5] → [5, n]
        *columns, draws = np.array(rows, np.int32).reshape(-1, 5).T.copy()
        return SampleTable(*columns, draws=draws.astype(bool))

    def _planned(self, task: str, length: int) -> int:
        """Return the positions that a sample takes, with its prompt or without it."""
        if task != "draw":
            return length
        return max(length, sequence.length(self._unconditional, self.features))

    def _check(self, record: Record, said: Conversation, length: int) -> None:
        """Refuse a sample that fits no row, or shows an image it cannot show."""
        config = self._config
        for image in set(said.images) - {0}:  # the first was checked
            self._check_grid(record, image)
        images = len(said.images)
        if length > config.row_length or images > config.row_views:
            raise RecordError(
                f"record {record['id']!r}: a sample takes {length} positions and shows "
                f"{images} pictures, but a row has {config.row_length} and "
                f"{config.row_views}; raise data.row_length or data.row_views, or "
                "shorten the text"
            )

    def _check_grid(self, record: Record, image: int = 0) -> None:
        """Refuse an image without codes, or of another shape than the ones before."""
        if not records.has_image(record):
            return
        rows, columns, *books = records.grid_of(record, image)
        grid = (rows, columns, books[0] if books else 1)
        if not self.features:
            self.grid = grid
        if grid != self.grid:
            raise RecordError(
                f"record {record['id']!r} has codes of shape {list(grid)}, those "
                f"before have {list(self.grid)}; pre-tokenise all pictures alike"
            )

    def _spans(self, turns: Turns) -> list[Span]:
        return sequence.spans_of(turns, self._vocabulary)

    def _samples_of(self, record: Record, task: str) -> Iterator[Conversation]:
        vocabulary, config = self._vocabulary, self._config.prompts
        if task == "dialogue":
            if said := record["messages"]:
                yield sequence.dialogue_spans(said, vocabulary, config)
            return
        for turns in self._turns_of(record, task):
            images = [0] if records.has_image(record) else []
            yield Conversation(self._spans(turns), images)

    def _turns_of(self, record: Record, task: str) -> Iterator[Turns]:
        vocabulary, config = self._vocabulary, self._config.prompts
        is_text = not records.has_image(record)
        if is_text != (task == "text"):
            return
        if task == "question":
            for item in record["questions"]:
                asked, answer = item["question"], item["answer"]
                yield sequence.question_turns(asked, answer, vocabulary, config)
            return
        for caption in record["captions"]:
            if task == "draw":
                yield sequence.draw_turns(caption, vocabulary, config)
            elif task == "caption":
                yield sequence.caption_turns(caption, vocabulary)
            else:
                yield sequence.text_turns(caption, vocabulary)

    def lay_out(self, number: int, prepared: Coded, *, drop_prompt: bool) -> LaidOut:
        """Lay out a sample of the table, whose codes were read."""
        said = self._samples[number]
        spans = self._unconditional if drop_prompt else said.spans
        sample = sequence.lay_out(spans, self.features, self._vocabulary)
        shown = [prepared.images[image] for image in said.images]
        return LaidOut(sample, np.stack(shown) if shown else self.blank_images()[:0])

    def blank_images(self) -> np.ndarray:
        """Return the codes of an empty row, int32 [I, S, K]."""
        shape = (self._config.row_views, self.features, self.grid[2])
        return np.zeros(shape, np.int32)
