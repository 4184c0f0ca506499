"""What a job's `data` group may hold: one dataclass for each kind of batches.

A kind has the fields that its batches depend on and no others, so that a field which
would change nothing is refused; `build_data` chooses by `kind`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.images.transforms import WHITE
from data_pipelines.unitok_mllm.sequence import LiquidConfig
from data_pipelines.unitoken.samples import TASKS, Task
from data_pipelines.unitoken.sequence import LayoutConfig
from unitoken_jax.config import (
    ConfigError,
    Name,
    build,
    nearest,
    plain,
    refuse_old_kind,
)
from unitoken_jax.files import UserPath


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, not {value}")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be positive, not {getattr(config, name)}")


def _check_not_negative(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative: {getattr(config, name)}")


@dataclass(frozen=True)
class AugmentConfig:
    """Light changes of pictures, drawn anew each time; none by default.

    Attributes:
        flip: probability of mirroring; never done when the text names a side.
        background: probability of a random plain background behind transparency.
        crop: share of a picture's area, the least that a random crop keeps; it is
            resized to the square, with sides of 3 : 4 to 4 : 3. 1 fits whole pictures.
    """

    flip: float = 0.0
    background: float = 0.0
    crop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], not {self.crop}")
        _check_probability("flip", self.flip)
        _check_probability("background", self.background)


@dataclass(frozen=True)
class MixtureConfig:
    """Relative numbers of samples of each task; 0 leaves a task out.

    Attributes:
        caption: understanding, the answer is a caption.
        question: understanding, the answer is that of one of the record's questions.
        draw: generation from a caption.
    """

    caption: float = 1.0
    question: float = 1.0
    draw: float = 2.0

    def __post_init__(self) -> None:
        ratios = (self.caption, self.question, self.draw)
        if not all(map(math.isfinite, ratios)) or min(ratios) < 0 or not any(ratios):
            raise ValueError(
                "ratios of a mixture must be finite and not negative, and one must be "
                f"positive; they are caption {self.caption}, question {self.question}, "
                f"draw {self.draw}"
            )

    @property
    def ratios(self) -> dict[Task, float]:
        """The tasks that take part, with their relative numbers of samples."""
        ratios: dict[Task, float] = {task: getattr(self, task) for task in TASKS}
        return {task: ratio for task, ratio in ratios.items() if ratio}


@dataclass(frozen=True)
class GridConfig:
    """How pictures become grids of codes.

    Attributes:
        code_stride: pixels along one side of a code.
    """

    code_stride: int = 16

    def __post_init__(self) -> None:
        _check_positive(self, "code_stride")


@dataclass(frozen=True)
class DataConfig:
    """One stream of batches: what all kinds have.

    Attributes:
        kind: of batches; the loader documents the arrays of each.
        split: of the prepared data set.
        directory: the prepared data set; None is the job's own data directory.
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
        _check_positive(self, "image_size")
        _check_not_negative(self, "threads", "prefetch", "cache_mib", "bad_limit")
        _check_not_negative(self, "watch_mib")
        if self.threads > self.prefetch:
            raise ValueError(
                f"threads is {self.threads}, but each builds one batch ahead and "
                f"prefetch holds {self.prefetch}, so that the others would never "
                f"work; set prefetch to {self.threads} or more, or threads to "
                f"{self.prefetch}"
            )
        _check_probability("bad_share", self.bad_share)
        if not all(0 <= channel <= 255 for channel in self.background):
            raise ValueError(f"background {self.background} is not a colour (0 … 255)")

    @property
    def reads_pictures(self) -> bool:
        """Whether batches depend on the bytes of pictures, and not on codes alone."""
        return True


@dataclass(frozen=True)
class PicturesConfig(DataConfig):
    """Pictures.

    Attributes:
        augment: changes of pictures.
    """

    kind: Literal["pictures"] = "pictures"
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class PairsConfig(DataConfig):
    """Pictures, each with one of its captions.

    Attributes:
        augment: changes of pictures.
        text_length: X, ids of a caption; longer ones are cut.
        text_end: whether a caption ends with one more id, the size of the vocabulary:
            a CLIP text tower reads at the largest id. CLIP's own tokenizer has it.
        clip_tokenizer: file of CLIP's tokenizer, for captions in its ids instead of
            the data set's; None is the data set's.
    """

    kind: Literal["pairs"] = "pairs"
    augment: AugmentConfig = AugmentConfig()
    text_length: int = 16
    text_end: bool = False
    clip_tokenizer: UserPath | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "text_length")
        if self.text_end and self.clip_tokenizer is not None:
            raise ValueError(
                "text_end is of captions in the data set's ids; with clip_tokenizer "
                "every caption ends as CLIP's do, so leave text_end out"
            )


@dataclass(frozen=True)
class PackedConfig(DataConfig):
    """Packed rows: what the kinds 'sequences' and 'liquid' share.

    Attributes:
        row_length: T, positions of a packed row.
        row_views: I, the most views a row holds for the continuous encoder: pictures
            for the base variant, the squashed view and the tiles for AnyRes. For
            'liquid' the most pictures.
        prompt_drop: probability that a drawn picture's prompt is left out, for
            classifier-free guidance. UniToken's published data never does, UniTok's
            does for a tenth.
    """

    row_length: int = 512
    row_views: int = 4
    prompt_drop: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_probability("prompt_drop", self.prompt_drop)
        _check_positive(self, "row_length")
        _check_not_negative(self, "row_views")


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
    mixture: MixtureConfig = MixtureConfig()

    @property
    def reads_pictures(self) -> bool:
        """Whether batches depend on the bytes of pictures."""
        return self.shows_views

    @property
    def shows_views(self) -> bool:
        """Whether batches hold pixels for the continuous encoder."""
        return self.layout.encoding != "discrete"


@dataclass(frozen=True)
class LiquidRowsConfig(PackedConfig):
    """Packed rows of UniTok's LLM.

    Attributes:
        layout: how pictures become grids of codes.
        liquid: how rows are laid out, and of which tasks.
    """

    kind: Literal["liquid"] = "liquid"
    layout: GridConfig = GridConfig()
    liquid: LiquidConfig = field(default_factory=LiquidConfig)

    @property
    def reads_pictures(self) -> bool:
        """Whether batches depend on the bytes of pictures."""
        return False


@dataclass(frozen=True)
class ClassesConfig(DataConfig):
    """Codes with a class.

    Attributes:
        layout: how pictures become grids of codes.
    """

    kind: Literal["classes"] = "classes"
    layout: GridConfig = GridConfig()

    @property
    def reads_pictures(self) -> bool:
        """Whether batches depend on the bytes of pictures."""
        return False


KINDS: Mapping[str, type[DataConfig]] = {
    "pictures": PicturesConfig,
    "pairs": PairsConfig,
    "sequences": SequencesConfig,
    "liquid": LiquidRowsConfig,
    "classes": ClassesConfig,
}


def build_data(node: Any, path: str = "config.data") -> DataConfig:
    """Convert a config's `data` node into the dataclass of its kind, strictly.

    Args:
        node: dict-like, `kind` and fields of that kind.
        path: where the node stands, for messages.

    Raises:
        ConfigError: as `config.build`; a field of other kinds is refused with theirs.
    """
    fields = plain(node)
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{path}: expected a group of fields, found {node!r}.")
    if "kind" not in fields:
        raise ConfigError(f"{path}.kind: missing; known are {', '.join(KINDS)}.")
    kind = fields["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        refuse_old_kind(kind, KINDS, f"{path}.kind")
        raise ConfigError(
            f"{path}.kind: {kind!r} is not among the choices{nearest(str(kind), KINDS)}"
        )
    for name in fields.keys() - _names(KINDS[kind]):
        _refuse_field(kind, str(name), path)
    return build(KINDS[kind], fields, path)


def _refuse_field(kind: str, name: str, path: str) -> None:
    """Refuse a field that other kinds have; one that none has is left to `build`."""
    others = [repr(other) for other, cls in KINDS.items() if name in _names(cls)]
    if not others:
        return
    hints = get_type_hints(KINDS[kind])
    inner = [
        f"{group}.{name}"
        for group, hint in hints.items()
        if dataclasses.is_dataclass(hint) and name in _names(hint)
    ]
    raise ConfigError(
        f"{path}.{name}: data of kind {kind!r} does not have it, only that of kind "
        f"{' or '.join(others)}{nearest(name, {*_names(KINDS[kind]), *inner})}"
    )


def _names(cls: Any) -> set[str]:
    return {entry.name for entry in dataclasses.fields(cls)}
