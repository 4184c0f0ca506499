"""The kind 'unitok_mllm': packed rows of text and multi-codebook images."""

from collections.abc import Iterator
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
from data_pipelines.unitok_mllm.sequence import TASKS, PromptsConfig, Turns


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
        cache = self.record_cache(source, read_codes)
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
    """A picture as its codes, int32 [S, K]; S is 0 for a text alone."""

    codes: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the codes."""
        return self.codes.nbytes


def read_codes(record: Record) -> Coded:
    """The codes of a record, place by place.

    Raises:
        RecordError: it has a picture, but no codes.
    """
    if not records.has_image(record):
        return Coded(np.zeros((0, 0), np.int32))
    codes = records.codes_of(record)
    # [h, w, K] → [h · w, K]
    return Coded(codes.reshape(codes.shape[0] * codes.shape[1], -1))


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
        self._turns: list[Turns] = []  # of each sample
        self._unconditional = sequence.draw_turns(None, vocabulary, config.prompts)

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
                for turns in self._turns_of(record, task):
                    length = sequence.length(turns, self.features)
                    images = int(records.has_image(record))
                    if fault := self._misfit(record, length, images):
                        cache.report(index, fault)
                        continue
                    rows.append(
                        (index, TASKS.index(task), self._planned(task, length), images)
                    )
                    self._turns.append(turns)
        # [n, 4] → [4, n]
        return SampleTable(*np.array(rows, np.int32).reshape(-1, 4).T.copy())

    def _planned(self, task: str, length: int) -> int:
        """Return the positions that a sample takes, with its prompt or without it."""
        if task != "draw":
            return length
        return max(length, sequence.length(self._unconditional, self.features))

    def _misfit(self, record: Record, length: int, images: int) -> RecordError | None:
        """Return why a sample fits no row, if it does not."""
        config = self._config
        if length <= config.row_length and images <= config.row_views:
            return None
        return RecordError(
            f"record {record['id']!r}: a sample takes {length} positions and shows "
            f"{images} pictures, but a row has {config.row_length} and "
            f"{config.row_views}; raise data.row_length or data.row_views, or shorten "
            "the text"
        )

    def _check_grid(self, record: Record) -> None:
        """Refuse an image without codes, or of another shape than the ones before."""
        if not records.has_image(record):
            return
        shape = records.codes_of(record).shape
        grid = (*shape, 1)[:3]
        if not self.features:
            self.grid = grid
        if grid != self.grid:
            raise RecordError(
                f"record {record['id']!r} has codes of shape {list(grid)}, those "
                f"before have {list(self.grid)}; pre-tokenise all pictures alike"
            )

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
        turns = self._unconditional if drop_prompt else self._turns[number]
        sample = sequence.lay_out(turns, self.features, self._vocabulary)
        has_image = len(prepared.codes) > 0
        return LaidOut(sample, prepared.codes[None][:has_image])

    def blank_images(self) -> np.ndarray:
        """Return the codes of an empty row, int32 [I, S, K]."""
        shape = (self._config.row_views, self.features, self.grid[2])
        return np.zeros(shape, np.int32)
