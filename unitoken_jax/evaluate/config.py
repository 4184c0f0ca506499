"""What a config's `evaluation` group may hold: dataclasses alone.

The config of an experiment holds them, so that nothing here needs what measures.
"""

import dataclasses
from typing import Annotated, Literal

from unitoken_jax.config import Bounds, Count, Name, Natural, Seed
from unitoken_jax.evaluate.statistics.answers import Comparison
from unitoken_jax.files import OptionalPath
from unitoken_jax.ops.pixels import Rounding

Auto = Literal["auto"]
"""A measure that is taken, as it is by default, if a model has it."""


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """What to measure.

    Attributes:
        stage: The training stage whose tokenizer is measured; "" is the last of them.
        images: At most how many held-out images.
        batch: Images at once.
        rounding: How pixels become bytes where images are shown.
        examples: How many pairs to show.
    """

    stage: str = ""
    images: Count = 256
    batch: Count = 32
    rounding: Rounding = "truncate"
    examples: Natural = 16


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """What to measure.

    Attributes:
        stage: The training stage whose SigLIP is measured; "" is the last of them.
        pairs: At most how many held-out pairs stand against each other.
        batch: Pairs embedded at once.
        ranks: The k of recall at k.
        without: Categories of records that are left out. Composed scenes by default:
            their backgrounds alone would tell many of them apart.
        examples: How many queries to show.
    """

    stage: str = ""
    pairs: Count = 256
    batch: Count = 64
    ranks: tuple[Count, ...] = (1, 5, 10)
    without: tuple[str, ...] = ("scene",)
    examples: Natural = 8


@dataclasses.dataclass(frozen=True)
class ZeroShotConfig:
    """What to measure.

    Attributes:
        stage: The training stage whose model is measured; "" is the last that has an
            image and a text tower.
        classes: The field of the held-out records that names the classes; a concept is
            the `group` of a record.
        folder: A directory with one folder of pictures a class, instead of records.
        names: A text file with the classes' names, one a line in the order of the
            sorted folders; "" takes the folders' own names.
        preprocess: How pictures of `folder` get their size, a name of
            `preprocessing.VARIANTS`; records' pictures are fitted as in training.
        orientation: Whether the EXIF of a folder's pictures is ignored, as published
            loaders do, or followed.
        templates: Texts with {} in the place of the class's name.
        templates_file: A text file with one template a line, instead.
        images: At most how many images.
        batch: Images, or texts, embedded at once.
        ranks: The k of top k.
        without: Categories of records that are left out.
        examples: How many images to show.
    """

    stage: str = ""
    classes: Literal["concept", "category", "subcategory"] = "concept"
    folder: OptionalPath = ""
    names: OptionalPath = ""
    preprocess: str = "short_side"
    orientation: Literal["released", "upright"] = "released"
    templates: tuple[str, ...] = ("{}", "a picture of {}", "a drawing of {}")
    templates_file: OptionalPath = ""
    images: Count = 512
    batch: Count = 64
    ranks: tuple[Count, ...] = (1, 5)
    without: tuple[str, ...] = ("scene",)
    examples: Natural = 8

    def __post_init__(self) -> None:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(
                    f"templates: {template!r} must have {{}} once, where the name of "
                    "the class goes"
                )


@dataclasses.dataclass(frozen=True)
class UnderstandingConfig:
    """What to measure.

    Attributes:
        questions: At most how many held-out questions of each kind.
        kinds: The kinds of question asked; empty for all there are.
        examples: How many right and how many wrong answers to show.
    """

    questions: Count = 48
    kinds: tuple[str, ...] = ()
    examples: Natural = 12


@dataclasses.dataclass(frozen=True)
class GenerationTestConfig:
    """What to measure.

    Attributes:
        images: How many held-out images are ranked.
        captions: Among how many captions, the right one included, K.
        drawings: How many held-out captions are drawn and asked about.
        kinds: Kinds of question asked about a drawing.
        seed: Seed of the shuffled captions and of the drawings.
        examples: How many drawings to show.
    """

    images: Natural = 48
    captions: int = 8
    drawings: Natural = 48
    kinds: tuple[str, ...] = ("name", "kind", "color", "count")
    seed: Seed = 0
    examples: Natural = 16

    @property
    def items(self) -> int:
        """How many held-out images the test takes."""
        return max(self.images, self.drawings)

    def __post_init__(self) -> None:
        if self.captions < 2:
            raise ValueError("captions must be at least 2: the right one and another")


@dataclasses.dataclass(frozen=True)
class ClassTestConfig:
    """What to measure.

    Attributes:
        images: How many held-out images are told apart.
        drawings: How many images are drawn, class after class.
        without: Classes that are not told apart.
        seed: Seed of the first drawing.
        examples: How many drawings to show.
    """

    images: Count = 64
    drawings: Natural = 32
    without: tuple[str, ...] = ()
    seed: Seed = 0
    examples: Natural = 24


@dataclasses.dataclass(frozen=True)
class DistributionConfig:
    """How sets of pictures are compared; the defaults are the published ones.

    Attributes:
        batch: Pictures in the network at once.
        keep: Whether the features (never the pictures) are held in memory; if not,
            only the Fréchet distance is computed, without interval.
        neighbors: k of precision and recall; 0 leaves them out.
        splits: Parts of the inception score; 0 leaves it out.
        subsets: Pairs of subsets of the kernel distance; 0 leaves it out.
        subset: Pictures in each of them, fewer if there are fewer.
        resamples: Of the Fréchet distance's interval; 0 leaves it out.
        seed: Of all that is drawn.
    """

    batch: Count = 32
    keep: bool = True
    neighbors: Count = 3
    splits: Count = 10
    subsets: Count = 100
    subset: Annotated[int, Bounds(2)] = 1000
    resamples: Natural = 50
    seed: Seed = 2020


@dataclasses.dataclass(frozen=True)
class PerceptionConfig:
    """What to measure; a network without weights is left out.

    Attributes:
        stage: The training stage whose tokenizer is measured; "" is the last of them.
        images: At most how many held-out images.
        rounding: How reconstructed pixels become bytes; UniTok's rFID says "round".
        alexnet: Weights of the package `stlpips-pytorch`, see
            `python -m unitoken_jax.convert.perceptual`.
        inception: Published weights of the FID's Inception, or a conversion of them.
        lpips: Published weights of LPIPS with VGG16, or a conversion of them.
        distribution: How sets are compared.
    """

    stage: str = ""
    images: Count = 512
    rounding: Rounding = "truncate"
    alexnet: OptionalPath = "data/perceptual/stlpips_alex.safetensors"
    inception: OptionalPath = ""
    lpips: OptionalPath = ""
    distribution: DistributionConfig = dataclasses.field(
        default_factory=DistributionConfig
    )


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """What to measure.

    Attributes:
        stage: The training stage whose tower is measured; "" is the last UniToken.
        images: At most how many held-out images.
        batch: Images at once.
    """

    stage: str = ""
    images: Count = 256
    batch: Count = 32


@dataclasses.dataclass(frozen=True)
class MemorizationConfig:
    """What to measure, and what counts as a success.

    Attributes:
        pairs: At most how many images with captions.
        psnr: What a drawing must reach beside its original, dB.
    """

    pairs: Count = 1
    psnr: float = 20.0


@dataclasses.dataclass(frozen=True)
class HeldOutConfig:
    """Which records all evaluators take, in which order, and how answers compare.

    Attributes:
        split: Held-out records.
        train_split: Records whose answers give the baselines of answers.
        seed: Seed of the order in which held-out records are taken.
        comparison: When two answers say the same, see `answers.RULES`.
    """

    split: Name = "heldout"
    train_split: Name = "train"
    seed: Seed = 0
    comparison: Comparison = "words"


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(HeldOutConfig):
    """Which evaluators run, on how much.

    None leaves one out, and so does "auto" where no model has what it measures; one
    that is named with its fields, were they none, says then what is missing.

    Attributes:
        reconstruction: What the tokenizer keeps.
        retrieval: Whether pictures and captions find each other.
        zero_shot: Whether pictures are known by the names of their classes.
        understanding: Whether questions are answered.
        generation: Whether drawings follow their prompts.
        classes: Whether a class-conditional generator knows its classes.
        perception: How reconstructions and drawings look to networks with published
            weights.
        features: Whether a UniToken's image tower tells pictures apart.
        memorization: Whether pictures that were learnt by heart come back.
    """

    reconstruction: ReconstructionConfig | Auto | None = "auto"
    retrieval: RetrievalConfig | Auto | None = "auto"
    zero_shot: ZeroShotConfig | Auto | None = "auto"
    understanding: UnderstandingConfig | Auto | None = "auto"
    generation: GenerationTestConfig | Auto | None = "auto"
    classes: ClassTestConfig | Auto | None = "auto"
    perception: PerceptionConfig | Auto | None = "auto"
    features: FeaturesConfig | None = None
    memorization: MemorizationConfig | None = None

    def complete(self) -> "EvaluationConfig":
        """Return it with the defaults of every measure that is "auto"."""
        chosen = {
            name: default()
            for name, default in _DEFAULTS.items()
            if getattr(self, name) == "auto"
        }
        return dataclasses.replace(self, **chosen)


_DEFAULTS = {
    "reconstruction": ReconstructionConfig,
    "retrieval": RetrievalConfig,
    "zero_shot": ZeroShotConfig,
    "understanding": UnderstandingConfig,
    "generation": GenerationTestConfig,
    "classes": ClassTestConfig,
    "perception": PerceptionConfig,
}
