"""The kind 'sequences': packed rows of text, image codes and continuous features."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from data_pipelines.config import PackedConfig, Source, policy_of
from data_pipelines.elements import BatchSpec, Elements
from data_pipelines.images import anyres, decoding, transforms
from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.packed_rows import LaidOut, PackedRows, RowFormat
from data_pipelines.storage import records
from data_pipelines.storage.manifest import Policy
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.records import Record
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitoken import samples, sequence
from data_pipelines.unitoken.samples import TASKS, MixtureConfig, Row, Samples, Task
from data_pipelines.unitoken.sequence import ImageContent, LayoutConfig


@dataclass(frozen=True)
class SequencesConfig(PackedConfig):
    """Packed rows of UniToken.

    Attributes:
        canvas: what views are cut from: the fitted 'square', which is what the small
            tokenizer sees too, or the 'original' picture, as published.
        views: how a picture becomes views.
        layout: how sequences are laid out and where the loss is.
        mixture: how many samples of each task.
    """

    kind: Literal["sequences"] = "sequences"
    canvas: Literal["square", "original"] = "square"
    views: ViewsConfig = field(default_factory=ViewsConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    @property
    def reads_images(self) -> bool:
        """Whether batches depend on the bytes of images."""
        return self.shows_views

    @property
    def shows_views(self) -> bool:
        """Whether batches hold pixels for the continuous encoder."""
        return self.layout.encoding != "discrete"

    def elements(
        self, source: Source, vocabulary: ImageTextVocabulary | None, seed: int
    ) -> Elements:
        """Return packed rows of the tasks of the mixture."""
        assert isinstance(source, Split)
        words = self.require_chameleon(vocabulary)
        if self.canvas == "square":  # codes of images in their own shapes have none
            self.check_codes(source, self.layout.code_stride)
        policy = policy_of(source)
        cache = self.record_cache(source, lambda r: show_record(r, self, policy))
        rows = packed_rows(cache, words, self, seed)
        return Elements(cache, rows.build, rows.tasks)

    def batch_spec(
        self, batch: int, *, tokens: int | None = None, codebooks: int = 1
    ) -> BatchSpec:
        """Return shape and type of every array that a batch brings to the devices."""
        side, shown = self.views.size, self.shown_views
        pixels = (batch, shown, side, side, 3)
        return self.row_spec(batch) | {"pixels": (pixels, np.uint8)}

    @property
    def shown_views(self) -> int:
        """Views of a row that batches hold, I."""
        return self.row_views if self.shows_views else 0


@dataclass(frozen=True)
class ShownImage:
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


@dataclass(frozen=True)
class Shown:
    """A record's pictures, those that its samples show, by number."""

    images: Mapping[int, ShownImage]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(image.nbytes for image in self.images.values())


def canvas_size(
    record: Record, config: SequencesConfig, image: int = 0
) -> tuple[int, int]:
    """Returns the (width, height) of what views of one of its pictures are cut from."""
    if config.canvas == "square":
        return config.image_size, config.image_size
    picture = records.image_of(record, image)
    return picture["width"], picture["height"]


def show_record(
    record: Record, config: SequencesConfig, policy: Policy = "released"
) -> Shown:
    """Returns what sequences need of a record's pictures.

    That is all pictures that its messages show, if dialogues are wanted, and the first,
    which captions and questions are about.

    Raises:
        ImageError: the bytes of one are no usable picture, or not of the size that the
            record says, by which its row was planned.
    """
    numbers = set(range(min(1, len(record["images"]))))
    if config.mixture.dialogue:
        parts = itertools.chain.from_iterable(m["content"] for m in record["messages"])
        numbers |= {part["image"] for part in parts if "image" in part}
    return Shown({n: _show(record, n, config, policy) for n in sorted(numbers)})


def _show(
    record: Record, image: int, config: SequencesConfig, policy: Policy
) -> ShownImage:
    codes = None
    if records.has_codes(record, image):
        codes = records.codes_of(record, image)
    size = canvas_size(record, config, image)
    if not config.shows_views:
        return ShownImage(codes, blank_views(0, config), size)
    said = records.image_of(record, image)
    picture = decoding.decode_image(record, image, policy=policy)
    if picture.size != (said["width"], said["height"]):
        raise decoding.ImageError(
            f"record {record['id']!r}: its picture is {picture.width} × "
            f"{picture.height} pixels, but the record says {said['width']} × "
            f"{said['height']}; prepare the data again"
        )
    return ShownImage(codes, show_image(picture, config), size)


def blank_views(count: int, config: SequencesConfig) -> np.ndarray:
    """Returns views without a picture, uint8 [count, side, side, 3]."""
    return np.zeros((count, config.views.size, config.views.size, 3), np.uint8)


def show_image(picture: Image.Image, config: SequencesConfig) -> np.ndarray:
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


class UniTokenFormat(RowFormat[Shown]):
    """Rows of UniToken."""

    tasks = TASKS
    mixture = "mixture"
    images = "pixels"

    def __init__(
        self,
        vocabulary: ChameleonVocabulary,
        config: SequencesConfig,
        tasks: Sequence[Task],
    ) -> None:
        """Take what rows are laid out by.

        Args:
            vocabulary: encodes the texts.
            config: of the data.
            tasks: which samples are wanted.
        """
        self._vocabulary = vocabulary
        self._config = config
        self._wanted = tasks
        self._table: Samples | None = None

    def tabulate(self, cache: RecordCache[Shown]) -> Samples:
        """List the samples of all records, in the order of records and tasks."""
        config = self._config
        self._table = samples.tabulate(
            cache.scan(),
            self._wanted,
            self._vocabulary,
            config.layout,
            views=config.views,
            canvas_size=lambda record, image: canvas_size(record, config, image),
            row=Row(config.row_length, config.row_views),
            refuse=cache.report,
        )
        return self._table

    def lay_out(self, number: int, prepared: Shown, *, drop_prompt: bool) -> LaidOut:
        """Lay out a sample of the table, whose image was prepared."""
        assert self._table is not None, "samples are tabulated first"
        config = self._config
        said = self._table.conversation(number, drop_prompt=drop_prompt)
        contents: list[ImageContent] = []
        views = [blank_views(0, config)]
        for image, drawn in samples.marked_images(said):
            shown, index = prepared.images[image], None
            if config.layout.parts(drawn=drawn)[1]:
                # Features of the pictures before it come first.
                before = sum(map(len, views)) * self.features
                block = anyres.feature_indices(*shown.size, config.views)
                index = anyres.shift_features(block, before)
                views.append(shown.views)
            contents.append(ImageContent(shown.codes, index))
        sample = sequence.lay_out(said.turns, contents, self._vocabulary, config.layout)
        return LaidOut(sample, np.concatenate(views))

    def blank_images(self) -> np.ndarray:
        """Return the views of an empty row, uint8 [I, side, side, 3]."""
        return blank_views(self._config.shown_views, self._config)

    @property
    def features(self) -> int:
        """Features of a view, S."""
        return self._config.views.features


def packed_rows(
    cache: RecordCache[Shown],
    vocabulary: ChameleonVocabulary,
    config: SequencesConfig,
    seed: int,
) -> PackedRows[Shown]:
    """Read every record of the cache once and plan the rows of UniToken."""
    ratios = config.mixture.ratios
    wanted: list[Task] = [task for task in TASKS if task in ratios]
    row_format = UniTokenFormat(vocabulary, config, wanted)
    return PackedRows(cache, row_format, config, ratios, seed)
