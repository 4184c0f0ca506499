"""What a stage's `data` group may hold: one dataclass for each kind of batches.

A kind has the fields that its batches depend on and no others, so that a field which
would change nothing is refused; `DATA` chooses by `kind`. The dataclass of a kind
stands in the module that makes its batches, and says how they are made and of what
shapes: another kind is such a module, and a line in `KINDS`.
"""

import dataclasses
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from data_pipelines.elements import BatchSpec, Elements
from data_pipelines.errors import LoaderError
from data_pipelines.images.transforms import WHITE
from data_pipelines.storage import records
from data_pipelines.storage.code_files import CodeFiles
from data_pipelines.storage.manifest import POLICIES, Policy
from data_pipelines.storage.record_cache import RecordCache, Sized
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from unitoken_jax.config import Dataclass, Kinds, Name, build_kind
from unitoken_jax.files import UserPath

KINDS: Mapping[str, str] = {
    "images": "data_pipelines.images.pairs:ImagesConfig",
    "pairs": "data_pipelines.images.pairs:PairsConfig",
    "sequences": "data_pipelines.unitoken.rows:SequencesConfig",
    "unitok_mllm": "data_pipelines.unitok_mllm.rows:MLLMRowsConfig",
    "classes": "data_pipelines.classes:ClassesConfig",
}
"""Kind of data → its dataclass, whose module is imported when it is needed."""

T = TypeVar("T", bound=Sized)
Source = Split | CodeFiles


def policy_of(source: Source) -> Policy:
    """Return how the pictures of a data set are read."""
    return source.manifest.image_policy if isinstance(source, Split) else POLICIES[0]


def check_probability(name: str, value: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: naming the field.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, not {value}")


def check_positive(config: object, *names: str) -> None:
    """Refuse fields below 1.

    Raises:
        ValueError: naming the field.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be positive, not {getattr(config, name)}")


def check_not_negative(config: object, *names: str) -> None:
    """Refuse fields below 0.

    Raises:
        ValueError: naming the field.
    """
    for name in names:
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative: {getattr(config, name)}")


@dataclass(frozen=True)
class TaskMixture:
    """Relative numbers of samples, one field a task; 0 leaves a task out."""

    def __post_init__(self) -> None:
        ratios = {each.name: getattr(self, each.name) for each in _fields(self)}
        values = ratios.values()
        if not all(map(math.isfinite, values)) or min(values) < 0 or not any(values):
            shown = ", ".join(f"{task} {ratio}" for task, ratio in ratios.items())
            raise ValueError(
                "ratios of a mixture must be finite and not negative, and one must be "
                f"positive; they are {shown}"
            )

    @property
    def ratios(self) -> dict[str, float]:
        """The tasks that take part, with their relative numbers of samples."""
        ratios = {each.name: float(getattr(self, each.name)) for each in _fields(self)}
        return {task: ratio for task, ratio in ratios.items() if ratio}


@dataclass(frozen=True)
class GridConfig:
    """How images become grids of codes.

    Attributes:
        code_stride: pixels along one side of a code.
    """

    code_stride: int = 16

    def __post_init__(self) -> None:
        check_positive(self, "code_stride")

    def tokens(self, image_size: int) -> int:
        """Return the places of the grid of a square image."""
        return (image_size // self.code_stride) ** 2


@dataclass(frozen=True)
class DataConfig:
    """One stream of batches: what all kinds have.

    Attributes:
        kind: of batches; the loader documents the arrays of each.
        split: of the prepared data set.
        directory: the prepared data set; None is the experiment's data directory.
        image_size: side in pixels of the square that a picture is fitted into; where
            data holds codes, of the one that was encoded.
        background: colour behind transparency and beside a fitted picture.
        threads: that build batches ahead, each one batch at a time; 0 builds them when
            asked.
        prefetch: batches built ahead and held in memory, one for each thread at least.
        cache_mib: memory for prepared records, such as decoded pictures, MiB.
        watch_mib: of a large data set, MiB a second that are compared with the digests
            of its manifest while batches are taken, until all are; 0 compares none.
        bad_limit: how many records may be set aside before the run ends; 0 makes the
            first one fatal.
        bad_share: the largest share of the records that may be set aside, whatever
            `bad_limit` allows; of few records, five may.
    """

    kind: str
    split: Name = "train"
    directory: UserPath | None = None
    image_size: int = 64
    background: tuple[int, int, int] = WHITE
    threads: int = 1
    prefetch: int = 2
    cache_mib: int = 256
    watch_mib: int = 16
    bad_limit: int = 100
    bad_share: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "image_size")
        check_not_negative(self, "threads", "prefetch", "cache_mib", "bad_limit")
        check_not_negative(self, "watch_mib")
        if self.threads > self.prefetch:
            raise ValueError(
                f"threads is {self.threads}, but each builds one batch ahead and "
                f"prefetch holds {self.prefetch}, so that the others would never "
                f"work; set prefetch to {self.threads} or more, or threads to "
                f"{self.prefetch}"
            )
        check_probability("bad_share", self.bad_share)
        if not all(0 <= channel <= 255 for channel in self.background):
            raise ValueError(f"background {self.background} is not a colour (0 … 255)")

    @property
    def reads_images(self) -> bool:
        """Whether batches depend on the bytes of images, and not on codes alone."""
        return True

    def open(self, directory: Path, *, verify: bool = False) -> Source:
        """Open the data set.

        Args:
            directory: where it is.
            verify: compare every byte with its manifest.

        Raises:
            DataError: it is missing, damaged or empty.
        """
        split = Split(directory, self.split, images=self.reads_images, verify=verify)
        if not len(split):
            raise LoaderError(f"split {self.split!r} of {split.directory} is empty")
        return split

    def elements(
        self, source: Source, vocabulary: ImageTextVocabulary | None, seed: int
    ) -> Elements:
        """Return what batches are made of.

        Args:
            source: what `open` gave.
            vocabulary: of the texts and codes, if there is one.
            seed: of what is planned beforehand.

        Raises:
            DataError: the data set does not have what the kind needs.
        """
        raise NotImplementedError(f"{self.kind} has no elements")

    def batch_spec(
        self, batch: int, *, tokens: int | None = None, codebooks: int = 1
    ) -> BatchSpec:
        """Return shape and type of every array that a batch brings to the devices.

        Args:
            batch: elements of it.
            tokens: tokens of an image, where the data holds codes; None is one for
                every `layout.code_stride` pixels along both sides.
            codebooks: codes of such a token.
        """
        raise NotImplementedError(f"{self.kind} has no shapes")

    def record_cache(
        self, source: Source, prepare: Callable[[Any], T]
    ) -> RecordCache[T]:
        """Return the records of a data set, prepared for batches."""
        items = cast(Sequence[Any], source)  # of whatever `prepare` takes
        return RecordCache(
            items,
            prepare,
            outlines=source.without_images() if isinstance(source, Split) else None,
            cache_bytes=self.cache_mib * 2**20,
            bad_limit=self.bad_limit,
            bad_share=self.bad_share,
        )

    def require_vocabulary(
        self, vocabulary: ImageTextVocabulary | None
    ) -> ImageTextVocabulary:
        """Return the vocabulary that the kind needs.

        Raises:
            LoaderError: there is none.
        """
        if vocabulary is None:
            raise LoaderError(f"data of kind {self.kind!r} needs a vocabulary")
        return vocabulary

    def require_chameleon(
        self, vocabulary: ImageTextVocabulary | None
    ) -> ChameleonVocabulary:
        """Return the vocabulary that the kind needs, with names for codes and padding.

        Raises:
            LoaderError: there is none, or another's.
        """
        needed = self.require_vocabulary(vocabulary)
        if not isinstance(needed, ChameleonVocabulary):
            raise LoaderError(
                f"data of kind {self.kind!r} needs a tokenizer.json of Chameleon's "
                "layout"
            )
        return needed

    def check_codes(self, split: Split, stride: int | None = None) -> None:
        """Refuse codes of images that were shown otherwise than the config shows them.

        Args:
            split: the data set.
            stride: pixels along a code, where rows are laid out by it.

        Raises:
            LoaderError: naming the field.
        """
        made = split.manifest.provenance
        if "tokenizer_id" not in made:
            return
        side = made["image_size"]
        compared = [
            ("image_size", self.image_size, side),
            ("background", list(self.background), made["background"]),
        ]
        first = split.without_images()[0]
        if stride is not None and first["images"] and records.has_codes(first):
            rows = records.grid_of(first)[0]
            compared.append(("layout.code_stride", stride, side // rows))
        for name, ours, theirs in compared:
            if ours != theirs:
                raise LoaderError(
                    f"data.{name} is {ours}, but the codes in {split.directory} were "
                    f"made with {theirs}; set data.{name} to that, or train with codes "
                    "of a tokenizer that sees the same pictures"
                )


@dataclass(frozen=True)
class PackedConfig(DataConfig):
    """Packed rows: what the kinds 'sequences' and 'unitok_mllm' share.

    Attributes:
        row_length: T, positions of a packed row.
        row_views: I, the most views a row holds for the continuous encoder: pictures
            for the base variant, the squashed view and the tiles for AnyRes. For
            'unitok_mllm' the most images.
        prompt_drop: probability that a drawn picture's prompt is left out, for
            classifier-free guidance. UniToken's published data never does, UniTok's
            does for a tenth.
    """

    row_length: int = 512
    row_views: int = 4
    prompt_drop: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("prompt_drop", self.prompt_drop)
        check_positive(self, "row_length")
        check_not_negative(self, "row_views")

    def row_spec(self, batch: int) -> BatchSpec:
        """Return shape and type of the arrays that stand for the positions of rows."""
        names = ("tokens", "segment_ids", "positions", "targets", "feature_index")
        return dict.fromkeys(names, ((batch, self.row_length), np.int32))


def kind_class(kind: str) -> type[DataConfig]:
    """Return the dataclass of a kind of data."""
    return pkgutil.resolve_name(KINDS[kind])


DATA: Kinds[DataConfig] = Kinds("data", KINDS, kind_class)
"""What a field that holds the config of data is annotated with."""


def build_data(node: object, path: str = "config.data") -> DataConfig:
    """Convert a config's `data` node into the dataclass of its kind, strictly.

    Args:
        node: dict-like, `kind` and fields of that kind.
        path: where the node stands, for messages.

    Raises:
        ConfigError: as `config.build`; a field of other kinds is refused with theirs.
    """
    return build_kind(DATA, node, path)


def _fields(of: Dataclass) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(of)
