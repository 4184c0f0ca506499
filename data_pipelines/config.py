"""What a job's `data` group may hold: which records, as what kind of batches."""

import math
from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.anyres import ViewsConfig
from data_pipelines.images import WHITE
from data_pipelines.liquid import LiquidConfig
from data_pipelines.samples import TASKS, Task
from data_pipelines.sequence import LayoutConfig


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, not {value}")


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
class DataConfig:
    """One stream of batches. Fields that a kind does not need are ignored.

    Attributes:
        kind: 'pictures', 'pairs' (pictures with a caption), 'sequences' (packed rows
            of UniToken), 'liquid' (packed rows of UniTok's LLM) or 'classes' (codes
            with a class); the loader documents the arrays of each.
        split: of the prepared data set.
        directory: the prepared data set; None is the job's own data directory.
        image_size: side in pixels of the square that a picture is fitted into.
        background: colour behind transparency and beside a fitted picture.
        augment: changes of pictures (pictures and pairs).
        text_length: X, ids of a caption (pairs); longer ones are cut.
        text_end: whether a caption (pairs) ends with one more id, the size of the
            vocabulary: a CLIP text tower reads at the largest id.
        clip_tokenizer: file of CLIP's tokenizer, for captions (pairs) in its ids
            instead of the data set's; None is the data set's.
        row_length: T, positions of a packed row.
        row_views: I, the most views a row holds for the continuous encoder: pictures
            for the base variant, the squashed view and the tiles for AnyRes. For
            'liquid' the most pictures.
        canvas: what views are cut from: the fitted 'square', which is what the small
            tokenizer sees too, or the 'original' picture, as published.
        views: how a picture becomes views.
        layout: how sequences are laid out and where the loss is.
        mixture: how many samples of each task.
        liquid: how rows of the kind 'liquid' are laid out, and of which tasks.
        prompt_drop: probability that a drawn picture's prompt is left out, for
            classifier-free guidance. UniToken's published data never does, UniTok's
            does for a tenth.
        threads: that build batches ahead; 0 builds them when asked.
        prefetch: batches built ahead.
        cache_mib: memory for decoded pictures, MiB.
        bad_limit: how many records may be set aside before the run ends; 0 makes the
            first one fatal.
    """

    kind: Literal["pictures", "pairs", "sequences", "liquid", "classes"]
    split: str = "train"
    directory: str | None = None
    image_size: int = 64
    background: tuple[int, int, int] = WHITE
    augment: AugmentConfig = AugmentConfig()
    text_length: int = 16
    text_end: bool = False
    clip_tokenizer: str | None = None
    row_length: int = 512
    row_views: int = 4
    canvas: Literal["square", "original"] = "square"
    views: ViewsConfig = field(default_factory=ViewsConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    mixture: MixtureConfig = MixtureConfig()
    liquid: LiquidConfig = field(default_factory=LiquidConfig)
    prompt_drop: float = 0.1
    threads: int = 1
    prefetch: int = 2
    cache_mib: int = 256
    bad_limit: int = 100

    def __post_init__(self) -> None:
        _check_probability("prompt_drop", self.prompt_drop)
        for name in ("image_size", "text_length", "row_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("row_views", "threads", "prefetch", "cache_mib", "bad_limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        if not all(0 <= channel <= 255 for channel in self.background):
            raise ValueError(f"background {self.background} is not a colour (0 … 255)")

    @property
    def shows_views(self) -> bool:
        """Whether batches hold pixels for the continuous encoder."""
        return self.kind == "sequences" and self.layout.encoding != "discrete"
