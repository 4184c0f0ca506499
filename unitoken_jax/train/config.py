"""What is configured: an experiment is several training stages in their order.

All of it is typed: `model` and `data` are the dataclasses of their kinds.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated

from data_pipelines.config import DATA, DataConfig
from unitoken_jax.checkpoint.manager import CheckpointConfig
from unitoken_jax.config import (
    NONE_IS_DEFAULT,
    Bounds,
    Dataclass,
    Name,
    Natural,
    Seed,
    below_one,
)
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.files import UserPath
from unitoken_jax.generate.config import GenerationConfig
from unitoken_jax.models.registry import MODELS, System, make_system
from unitoken_jax.parallel.mesh import MeshConfig
from unitoken_jax.train.monitor.alarms import AlarmConfig
from unitoken_jax.train.monitor.flight_recorder import FlightConfig
from unitoken_jax.train.monitor.watchdog import WatchdogConfig
from unitoken_jax.train.update.adversarial import AdversarialConfig
from unitoken_jax.train.update.guard import GuardConfig
from unitoken_jax.train.update.optimizer import OptimizerConfig

_Option = bool | Annotated[int, Bounds(-(2**63), most=2**63 - 1)] | float | str


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, in what batches, and what is written down how often.

    Attributes:
        steps: optimizer steps of the stage.
        batch: elements of the global batch (pictures, pairs or packed rows).
        microbatches: parts of the batch whose gradients are accumulated; 1 for a loss
            that compares elements of the batch, and against a discriminator.
        log_every: steps between lines of metrics, which are means over them.
        image_every: steps between pictures of what the model does (0: none).
        profile_start: first step of a window recorded with the JAX profiler.
        profile_steps: length of that window (0: no profile).
        ema: decay of a moving average of the parameters, which evaluation and
            sampling then use (0: none).
    """

    steps: int
    batch: int
    microbatches: int = 1
    log_every: int = 10
    image_every: Natural = 0
    profile_start: Natural = 10
    profile_steps: Natural = 0
    ema: float = 0.0

    def __post_init__(self) -> None:
        below_one(self, "ema")
        for name in ("steps", "batch", "microbatches", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1.")
        if self.batch % self.microbatches:
            raise ValueError(
                f"a batch of {self.batch} does not divide into {self.microbatches} "
                "microbatches."
            )


@dataclasses.dataclass(frozen=True)
class CodesConfig:
    """Pictures as codes of the tokenizer that an earlier `stage` trained."""

    stage: str


@dataclasses.dataclass(frozen=True)
class WeightsConfig:
    """Weights of a frozen network: a file or folder in a `format` of convert."""

    format: str
    path: UserPath


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage.

    Attributes:
        name: of the stage and of its directory; its key in an experiment.
        seed: of the initialisation, the data's order and the noise.
        model: the config of its kind of model.
        data: the config of its kind of data.
        codes: where the image codes come from, if the data needs any.
        init: parameters to start from, our subtree, or 'all' of them →
            'STAGE_OR_PATH:subtree'.
        frozen_models: frozen networks that the loss or the discriminator consults, by
            name.
        discriminator: a discriminator to train against, for systems that draw.
        alarms: what is worth a warning.
        tpu_options: options of the compiler on TPUs, 'xla_tpu_…' → value; the planner
            says which pay.
    """

    name: Name
    seed: Seed
    model: Annotated[Dataclass, MODELS]
    data: Annotated[DataConfig, DATA]
    optimizer: OptimizerConfig
    train: TrainConfig
    codes: CodesConfig | None = None
    init: Annotated[Mapping[str, UserPath], NONE_IS_DEFAULT] = dataclasses.field(
        default_factory=dict
    )
    frozen_models: Annotated[Mapping[str, WeightsConfig], NONE_IS_DEFAULT] = (
        dataclasses.field(default_factory=dict)
    )
    discriminator: AdversarialConfig | None = None
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    alarms: AlarmConfig = dataclasses.field(default_factory=AlarmConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    tpu_options: Annotated[Mapping[str, _Option], NONE_IS_DEFAULT] = dataclasses.field(
        default_factory=dict
    )
    flight_recorder: FlightConfig = dataclasses.field(default_factory=FlightConfig)
    watchdog: WatchdogConfig = dataclasses.field(default_factory=WatchdogConfig)

    @functools.cached_property
    def system(self) -> System:
        """The model, made once."""
        return make_system(self.model)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Stages in order, and what follows them.

    Attributes:
        name: of the experiment.
        order: names of the stages as they run.
        stages: the stages by name.
        data_dir: the prepared data set.
        evaluation: what is measured when they are trained.
        generation: which of them draws and answers, and how.
        finish: whether a complete run ends with its evaluation and report page.
    """

    name: str
    order: tuple[str, ...]
    stages: Mapping[str, StageConfig]
    data_dir: UserPath
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    generation: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)
    finish: bool = True
