"""Elements of the kind 'liquid': packed rows of text and multi-codebook images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from data_pipelines.config import LiquidRowsConfig
from data_pipelines.packing import Plan, plan_rows
from data_pipelines.storage import records
from data_pipelines.storage.record_cache import Gallery
from data_pipelines.storage.records import Record, RecordError
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitok_mllm import sequence as liquid
from data_pipelines.unitok_mllm.sequence import LIQUID_TASKS, LiquidTask, Turns
from data_pipelines.unitoken import sequence
from data_pipelines.unitoken.rows import fill_row
from data_pipelines.unitoken.sequence import NO_SLOT

Element = dict[str, np.ndarray]


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
    if not records.has_picture(record):
        return Coded(np.zeros((0, 0), np.int32))
    codes = records.codes_of(record)
    # [h, w, K] → [h · w, K]
    return Coded(codes.reshape(codes.shape[0] * codes.shape[1], -1))


@dataclass(frozen=True)
class _Table:
    """The samples of all tasks; arrays are int32 [n].

    Attributes:
        record: index of the sample's record.
        task: index in `LIQUID_TASKS`.
        length: positions it takes in a row.
        pictures: how many it shows.
        turns: number of its turns in `LiquidRows.turns`.
    """

    record: np.ndarray
    task: np.ndarray
    length: np.ndarray
    pictures: np.ndarray
    turns: np.ndarray


class LiquidRows:
    """Packed rows of every task at random access.

    Attributes:
        plans: the rows of each task, as numbers of samples.
        grid: rows and columns of every picture's codes, and their codebooks.
    """

    def __init__(
        self,
        gallery: Gallery[Coded],
        vocabulary: ImageTextVocabulary,
        config: LiquidRowsConfig,
        seed: int,
    ) -> None:
        """Reads every record of the gallery once and plans the rows.

        Args:
            gallery: gives the codes.
            vocabulary: encodes the texts.
            config: of the data.
            seed: of the grouping into rows.
        """
        self._gallery = gallery
        self._vocabulary = vocabulary
        self._config = config
        self.grid = (0, 0, 0)
        self._turns: list[Turns] = []
        self._unconditional = liquid.draw_turns(None, vocabulary, config.liquid)
        self._table = self._tabulate()
        tasks = list(config.liquid.mixture.ratios)
        self.plans: Mapping[LiquidTask, Plan] = {
            task: self._plan(task, seed) for task in tasks
        }
        self._widest = max(plan.widest for plan in self.plans.values())

    @property
    def size(self) -> int:
        """Image tokens of a picture S."""
        return self.grid[0] * self.grid[1]

    @property
    def records(self) -> np.ndarray:
        """The record of every sample that rows are planned of."""
        return self._table.record

    def _tabulate(self) -> _Table:
        """Lists the samples in the order of records and tasks."""
        rows: list[tuple[int, ...]] = []
        config = self._config
        for index, record in self._gallery.scan():
            try:
                self._check_grid(record)
            except RecordError as fault:
                self._gallery.set_aside(index, fault)
                continue
            for task in config.liquid.mixture.ratios:
                for turns in self._turns_of(record, task):
                    length = liquid.length(turns, self.size)
                    pictures = int(records.has_picture(record))
                    if length > config.row_length or pictures > config.row_views:
                        fault = RecordError(
                            f"record {record['id']!r}: a sample takes {length} "
                            f"positions and shows {pictures} pictures, but a row has "
                            f"{config.row_length} and {config.row_views}; raise "
                            "data.row_length or data.row_views, or shorten the text"
                        )
                        self._gallery.report(index, fault)
                        continue
                    number = LIQUID_TASKS.index(task)
                    rows.append((index, number, length, pictures, len(self._turns)))
                    self._turns.append(turns)
        return _Table(*np.array(rows, np.int32).reshape(-1, 5).T.copy())

    def _check_grid(self, record: Record) -> None:
        """Refuses a picture without codes, or of another shape than the ones before."""
        if not records.has_picture(record):
            return
        shape = records.codes_of(record).shape
        grid = (*shape, 1)[:3]
        if not self.size:
            self.grid = grid
        if grid != self.grid:
            raise RecordError(
                f"record {record['id']!r} has codes of shape {list(grid)}, those "
                f"before have {list(self.grid)}; pre-tokenise all pictures alike"
            )

    def _turns_of(self, record: Record, task: LiquidTask) -> Iterator[Turns]:
        vocabulary, config = self._vocabulary, self._config.liquid
        is_text = not records.has_picture(record)
        if is_text != (task == "text"):
            return
        if task == "question":
            for item in record["questions"]:
                asked, answer = item["question"], item["answer"]
                yield liquid.question_turns(asked, answer, vocabulary, config)
            return
        for caption in record["captions"]:
            if task == "draw":
                yield liquid.draw_turns(caption, vocabulary, config)
            elif task == "caption":
                yield liquid.caption_turns(caption, vocabulary)
            else:
                yield liquid.text_turns(caption, vocabulary)

    def _plan(self, task: LiquidTask, seed: int) -> Plan:
        table, config = self._table, self._config
        chosen = np.flatnonzero(table.task == LIQUID_TASKS.index(task))
        if not len(chosen):
            reasons = self._gallery.bad_records.values()
            hint = f"; {next(iter(reasons))}" if reasons else ""
            raise RecordError(
                f"split {config.split!r} gives no samples for the task {task!r}; set "
                f"data.liquid.mixture.{task} to 0{hint}"
            )
        lengths, pictures = table.length[chosen], table.pictures[chosen]
        if task == "draw":
            # Without its prompt a sample must fit as well.
            empty = liquid.length(self._unconditional, self.size)
            lengths = np.maximum(lengths, empty)
        plan = plan_rows(
            lengths, pictures, config.row_length, config.row_views, seed=seed
        )
        return Plan(chosen[plan.samples], plan.starts, plan.filled)

    def build(self, place: tuple[LiquidTask, int], rng: np.random.Generator) -> Element:
        """Returns one row: see `loader` for the arrays.

        A sample whose record turned out to be bad is left out of its row.
        """
        task, row = place
        numbers = self.plans[task][row]
        # Drawn for every sample, so that a bad one does not change the others.
        drops = rng.random(len(numbers)) < self._config.prompt_drop
        laid: list[sequence.Sample] = []
        draws: list[np.ndarray] = []
        shown: list[np.ndarray] = []
        kept = np.full(self._widest, -1, np.int32)
        start = 0
        for position, (number, drop) in enumerate(zip(numbers, drops, strict=True)):
            record = int(self._table.record[number])
            coded = self._gallery[record]
            if coded is None:
                continue
            kept[position] = record
            turns = self._turns[self._table.turns[number]]
            if drop and task == "draw":
                turns = self._unconditional
            sample = liquid.lay_out(turns, self.size, self._vocabulary)
            slots = np.where(
                sample.slots == NO_SLOT, NO_SLOT, sample.slots + self.size * len(shown)
            )
            laid.append(sequence.Sample(sample.tokens, sample.labels, slots))
            draws.append(sample.draws + start)
            start += len(sample.tokens)
            if len(coded.codes):
                shown.append(coded.codes)
        pictures = self._config.row_views
        codes = np.zeros((pictures, self.size, self.grid[2]), np.int32)
        places = np.full(pictures * self.size, -1, np.int32)
        if shown:
            codes[: len(shown)] = shown
        if draws:
            joined = np.concatenate(draws)
            places[: len(joined)] = joined
        row_arrays = fill_row(laid, self._config)
        return {**row_arrays, "codes": codes, "draws": places, "record": kept}
