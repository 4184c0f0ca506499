"""Elements of the kind 'sequences': packed rows of text, codes and continuous slots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.config import PackedConfig, SequencesConfig
from data_pipelines.images import anyres, decoding, transforms
from data_pipelines.packing import Plan, plan_rows
from data_pipelines.storage import records
from data_pipelines.storage.record_cache import Gallery
from data_pipelines.storage.records import Record
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.unitoken import samples, sequence
from data_pipelines.unitoken.samples import Row, Samples, Task
from data_pipelines.unitoken.sequence import IGNORE, NO_SLOT, Picture

Element = dict[str, np.ndarray]


@dataclass(frozen=True)
class Shown:
    """A record's picture as sequences show it.

    Attributes:
        codes: int32 [h, w], or None if not pre-tokenised.
        views: uint8 [M, side, side, 3]; M = 0 if no encoder sees them.
        size: (width, height) of the picture the views were cut from.
    """

    codes: np.ndarray | None
    views: np.ndarray
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.views.nbytes + (0 if self.codes is None else self.codes.nbytes)


def canvas_size(record: Record, config: SequencesConfig) -> tuple[int, int]:
    """Returns the (width, height) of the picture that views are cut from."""
    if config.canvas == "square":
        return config.image_size, config.image_size
    return record["width"], record["height"]


def show_record(record: Record, config: SequencesConfig) -> Shown:
    """Returns what sequences need of a record's picture.

    Raises:
        PictureError: its bytes are no usable picture, or not of the record's size, by
            which its row was planned.
    """
    codes = records.codes_of(record) if record["codes"] is not None else None
    size = canvas_size(record, config)
    side = config.views.size
    views = np.zeros((0, side, side, 3), np.uint8)
    if config.shows_views:
        picture = decoding.decode(record["image"], f"record {record['id']!r}")
        if picture.size != (record["width"], record["height"]):
            raise decoding.PictureError(
                f"record {record['id']!r}: its picture is {picture.width} × "
                f"{picture.height} pixels, but the record says {record['width']} × "
                f"{record['height']}; prepare the data again"
            )
        views = show_picture(picture, config)
    return Shown(codes, views, size)


def show_picture(picture: Image.Image, config: SequencesConfig) -> np.ndarray:
    """Returns a picture's views for the continuous encoder, uint8 [M, side, side, 3].

    Transparency is blended over the background. The published code drops it instead,
    which shows whatever colours lie hidden in transparent pixels.
    """
    if config.canvas == "square":
        square = transforms.to_square(picture, config.image_size, config.background)
        return anyres.cut_views(Image.fromarray(square), config.views)
    return anyres.cut_views(
        transforms.composite(picture, config.background), config.views
    )


class PackedRows:
    """Packed rows of every task at random access.

    Attributes:
        table: the samples of all tasks.
        plans: the rows of each task, as numbers into `table`.
    """

    def __init__(
        self,
        gallery: Gallery[Shown],
        vocabulary: ChameleonVocabulary,
        config: SequencesConfig,
        tasks: Sequence[Task],
        seed: int,
    ) -> None:
        """Reads every record of the gallery once and plans the rows.

        Args:
            gallery: gives the pictures.
            vocabulary: encodes the texts.
            config: of the data.
            tasks: which samples are wanted.
            seed: of the grouping into rows.
        """
        self._gallery = gallery
        self._vocabulary = vocabulary
        self._config = config
        self.table: Samples = samples.tabulate(
            gallery.scan(),
            tasks,
            vocabulary,
            config.layout,
            views=config.views,
            canvas_size=lambda record: canvas_size(record, config),
            row=Row(config.row_length, config.row_views),
            refuse=gallery.report,
        )
        self.plans: Mapping[Task, Plan] = {
            task: self._plan(task, seed) for task in tasks
        }
        # Rows of all tasks stand in one batch, so their record lists are of one width.
        self._widest = max(plan.widest for plan in self.plans.values())

    @property
    def records(self) -> np.ndarray:
        """The record of every sample that rows are planned of."""
        return self.table.record

    def _plan(self, task: Task, seed: int) -> Plan:
        chosen = self.table.of_task(task)
        if not len(chosen):
            reasons = self._gallery.bad_records.values()
            hint = f"; {next(iter(reasons))}" if reasons else ""
            raise records.RecordError(
                f"split {self._config.split!r} gives no samples for the task {task!r}; "
                f"set data.mixture.{task} to 0{hint}"
            )
        length, views = self.table.length[chosen], self.table.views[chosen]
        config = self._config
        plan = plan_rows(length, views, config.row_length, config.row_views, seed=seed)
        return Plan(chosen[plan.samples], plan.starts, plan.filled)

    def build(self, place: tuple[Task, int], rng: np.random.Generator) -> Element:
        """Returns one row: see `loader` for the arrays.

        A sample whose picture turned out to be bad is left out of its row.
        """
        task, row = place
        config = self._config
        numbers = self.plans[task][row]
        # Drawn for every sample, so that a bad one does not change the others.
        drops = rng.random(len(numbers)) < config.prompt_drop
        laid: list[sequence.Sample] = []
        views: list[np.ndarray] = []
        kept = np.full(self._widest, -1, np.int32)
        for position, (number, drop) in enumerate(zip(numbers, drops, strict=True)):
            record = int(self.table.record[number])
            shown = self._gallery[record]
            if shown is None:
                continue
            kept[position] = record
            slots = None
            if self.table.views[number]:
                block = anyres.continuous_slots(*shown.size, config.views)
                before = sum(map(len, views)) * config.views.slots
                slots = anyres.move_slots(block, before)
                views.append(shown.views)
            turns = self.table.turns(number, drop_prompt=drop and task == "draw")
            picture = Picture(shown.codes, slots)
            laid.append(
                sequence.lay_out(turns, [picture], self._vocabulary, config.layout)
            )
        return {**fill_row(laid, config), **self._pixels(views), "record": kept}

    def _pixels(self, views: list[np.ndarray]) -> Element:
        config = self._config
        side = config.views.size
        shown = config.row_views if config.shows_views else 0
        pixels = np.zeros((shown, side, side, 3), np.uint8)
        if views:
            stacked = np.concatenate(views)
            pixels[: len(stacked)] = stacked
        return {"pixels": pixels}


def fill_row(laid: list[sequence.Sample], config: PackedConfig) -> Element:
    """Lays samples one after the other into a row of T positions, padded behind.

    Returns:
        tokens, segment_ids, positions, targets and slots, int32 [T].
    """
    fill = {"tokens": 0, "segment_ids": 0, "positions": 0}
    fill |= {"targets": IGNORE, "slots": NO_SLOT}
    row = {k: np.full(config.row_length, v, np.int32) for k, v in fill.items()}
    start = 0
    for segment, sample in enumerate(laid, 1):
        at = slice(start, start + len(sample.tokens))
        row["tokens"][at] = sample.tokens
        row["segment_ids"][at] = segment
        row["positions"][at] = np.arange(len(sample.tokens))
        row["targets"][at] = sequence.shift_labels(sample.labels)
        row["slots"][at] = sample.slots
        start = at.stop
    return row
