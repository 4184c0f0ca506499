"""Packed rows at random access: the samples of records, planned once, laid out anew.

What differs between models (which samples a record gives, how one is laid out, what
its images are shown as) is said by a `RowFormat`.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from data_pipelines.config import PackedConfig
from data_pipelines.elements import Element, TaskRows
from data_pipelines.packing import PackingPlan, Sample, fill_row, plan_rows
from data_pipelines.storage.record_cache import RecordCache, Sized
from data_pipelines.storage.records import RecordError

T = TypeVar("T", bound=Sized)
DRAW = "draw"  # the task whose prompts may be dropped


@dataclass(frozen=True)
class SampleTable:
    """The samples of all tasks; arrays are int32 [n].

    Attributes:
        record: index of the record of each sample.
        task: number of its task in `RowFormat.tasks`.
        length: positions that it takes in a row.
        views: images that it shows the model as features.
        draws: whether it teaches to draw an image, bool [n]: such samples count as
            generation, all others as understanding.
    """

    record: np.ndarray
    task: np.ndarray
    length: np.ndarray
    views: np.ndarray
    draws: np.ndarray

    def __len__(self) -> int:
        return len(self.record)


class LaidOut(NamedTuple):
    """A sample as it stands in a row, and its images as features are made of them.

    Images are [M, …], M being those that the sample shows.
    """

    sample: Sample
    images: np.ndarray


class RowFormat(abc.ABC, Generic[T]):
    """What one model's packed rows hold.

    Attributes:
        tasks: names of all tasks, in the order of their numbers.
        mixture: the field of the config that mixes them, for messages.
        images: name of the array of a row's images.
        has_image_targets: whether rows list the places that image tokens are predicted
            at.
    """

    tasks: Sequence[str]
    mixture: str
    images: str
    has_image_targets: bool = False

    @abc.abstractmethod
    def tabulate(self, cache: RecordCache[T]) -> SampleTable:
        """List the samples of all records, in the order of records and tasks."""

    @abc.abstractmethod
    def lay_out(self, number: int, prepared: T, *, drop_prompt: bool) -> LaidOut:
        """Lay out a sample of the table, whose record was prepared."""

    @abc.abstractmethod
    def blank_images(self) -> np.ndarray:
        """Return the images of an empty row, [I, …], once samples are tabulated."""

    @property
    @abc.abstractmethod
    def features(self) -> int:
        """Features of an image, S, once samples are tabulated."""


class PackedRows(Generic[T]):
    """Packed rows of every task at random access.

    Attributes:
        table: the samples of all tasks.
        plans: the rows of each task that takes part, as numbers into `table`.
    """

    def __init__(
        self,
        cache: RecordCache[T],
        row_format: RowFormat[T],
        config: PackedConfig,
        ratios: Mapping[str, float],
        seed: int,
    ) -> None:
        """Read every record of the cache once, and plan the rows.

        Args:
            cache: gives the records.
            row_format: of the rows.
            config: of the data.
            ratios: relative numbers of samples of the tasks that take part.
            seed: of the grouping into rows.
        """
        self._cache = cache
        self._format = row_format
        self._config = config
        self._ratios = ratios
        self.table = row_format.tabulate(cache)
        self.plans = {task: self._plan(task, seed) for task in ratios}
        # Rows of all tasks stand in one batch, so their record lists are of one width.
        self._widest = max(plan.widest for plan in self.plans.values())

    @property
    def tasks(self) -> dict[str, TaskRows]:
        """The rows of each task, with its part of the mixture."""
        return {
            task: TaskRows(
                self._ratios[task],
                plan,
                self.table.record[plan.samples],
                int(np.count_nonzero(self.table.draws[plan.samples])),
            )
            for task, plan in self.plans.items()
        }

    def _plan(self, task: str, seed: int) -> PackingPlan:
        table, config = self.table, self._config
        chosen = np.flatnonzero(table.task == self._format.tasks.index(task))
        if not len(chosen):
            reasons = self._cache.bad_records.values()
            hint = f"; {next(iter(reasons))}" if reasons else ""
            raise RecordError(
                f"split {config.split!r} gives no samples for the task {task!r}; set "
                f"data.{self._format.mixture}.{task} to 0{hint}"
            )
        plan = plan_rows(
            table.length[chosen],
            table.views[chosen],
            config.row_length,
            config.row_views,
            seed=seed,
        )
        return PackingPlan(chosen[plan.samples], plan.starts, plan.filled)

    def build(self, place: tuple[str, int], rng: np.random.Generator) -> Element:
        """Return one row, by task and number: see `loader` for the arrays.

        A sample whose record turned out to be bad is left out of its row.
        """
        task, row = place
        numbers = self.plans[task][row]
        # Drawn for every sample, so that a bad one does not change the others.
        drops = rng.random(len(numbers)) < self._config.prompt_drop
        laid: list[LaidOut] = []
        kept = np.full(self._widest, -1, np.int32)
        for position, (number, drop) in enumerate(zip(numbers, drops, strict=True)):
            record = int(self.table.record[number])
            prepared = self._cache[record]
            if prepared is None:
                continue
            kept[position] = record
            drop_prompt = bool(drop) and task == DRAW
            laid.append(
                self._format.lay_out(int(number), prepared, drop_prompt=drop_prompt)
            )
        features = self._format.features
        shown = [len(each.images) * features for each in laid]
        samples = [each.sample for each in laid]
        element = fill_row(samples, self._config.row_length, shown)
        element[self._format.images] = self._images(laid)
        if self._format.has_image_targets:
            element["image_target_positions"] = self._image_targets(samples)
        element["record"] = kept
        return element

    def _images(self, laid: Sequence[LaidOut]) -> np.ndarray:
        images = self._format.blank_images()  # [I, …]
        shown = [each.images for each in laid if len(each.images)]
        if shown:
            joined = np.concatenate(shown)
            images[: len(joined)] = joined
        return images

    def _image_targets(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the places of a row that predict image tokens, −1 behind them."""
        places = np.full(self._config.row_views * self._format.features, -1, np.int32)
        end = start = 0
        for sample in samples:
            own = sample.image_target_positions
            places[end : end + len(own)] = own + start
            end, start = end + len(own), start + len(sample.tokens)
        return places  # [I * S]
