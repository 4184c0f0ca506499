"""A job is one training stage, a chain is several in order: the trainer's configs.

The nodes `model` and `data` are converted by those who know them; here they are plain.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from unitoken_jax.checkpoint.manager import CheckpointConfig
from unitoken_jax.config import (
    NONE_IS_DEFAULT,
    Bounds,
    ConfigError,
    Name,
    Natural,
    Seed,
    below_one,
    build,
    nearest,
    overrides,
    plain,
    set_fields,
)
from unitoken_jax.files import UserPath, read_json, write_json
from unitoken_jax.parallel.mesh import MeshConfig
from unitoken_jax.renamed import translate
from unitoken_jax.train.adversarial import AdversaryConfig
from unitoken_jax.train.alarms import AlarmConfig
from unitoken_jax.train.flight import FlightConfig
from unitoken_jax.train.guard import GuardConfig
from unitoken_jax.train.optimizer import OptimizerConfig
from unitoken_jax.train.watchdog import WatchdogConfig

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The file of a run's folder that holds its config."""

_Option = bool | Annotated[int, Bounds(-(2**63), most=2**63 - 1)] | float | str
_TAKEN = (  # names in a run's folder that are no stages
    *(CONFIG, "codes", "evaluation", "evaluation.json", "log.txt", "report.html"),
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, in what batches, and what is written down how often.

    Attributes:
        steps: optimizer steps of the stage.
        batch: elements of the global batch (pictures, pairs or packed rows).
        microbatches: parts of the batch whose gradients are accumulated; 1 for a loss
            that compares elements of the batch, and against an adversary.
        log_every: steps between lines of metrics, which are means over them.
        image_every: steps between pictures of what the model does (0: none).
        profile_start: first step of a window recorded with the JAX profiler.
        profile_steps: length of that window (0: no profile).
        average: decay of a moving average of the parameters, which evaluation and
            sampling then use (0: none).
    """

    steps: int
    batch: int
    microbatches: int = 1
    log_every: int = 10
    image_every: Natural = 0
    profile_start: Natural = 10
    profile_steps: Natural = 0
    average: float = 0.0

    def __post_init__(self) -> None:
        below_one(self, "average")
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
class Job:
    """One training stage.

    Attributes:
        name: of the stage and of its directory; the key it stands under in a chain.
        seed: of the initialisation, the data's order and the noise.
        model: `kind` and the fields of that kind's config.
        data: fields of the loader's config.
        codes: where the image codes come from, if the data needs any.
        init: parameters to start from, our subtree → 'STAGE_OR_PATH:subtree'.
        companions: frozen networks that the loss or the adversary consults, by name.
        adversary: a discriminator to train against, for systems that draw.
        alarms: what is worth a warning.
        tpu_options: options of the compiler on TPUs, 'xla_tpu_…' → value; the planner
            says which pay.
    """

    name: Name
    seed: Seed
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    optimizer: OptimizerConfig
    train: TrainConfig
    codes: CodesConfig | None = None
    init: Annotated[Mapping[str, UserPath], NONE_IS_DEFAULT] = dataclasses.field(
        default_factory=dict
    )
    companions: Annotated[Mapping[str, WeightsConfig], NONE_IS_DEFAULT] = (
        dataclasses.field(default_factory=dict)
    )
    adversary: AdversaryConfig | None = None
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    alarms: AlarmConfig = dataclasses.field(default_factory=AlarmConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    tpu_options: Annotated[Mapping[str, _Option], NONE_IS_DEFAULT] = dataclasses.field(
        default_factory=dict
    )
    flight: FlightConfig = dataclasses.field(default_factory=FlightConfig)
    watchdog: WatchdogConfig = dataclasses.field(default_factory=WatchdogConfig)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Stages in order, and what follows them.

    Attributes:
        name: of the experiment.
        order: names of the stages as they run.
        stages: the jobs by name.
        data_dir: the prepared data set.
        evaluation: fields of the evaluation's config.
        generation: fields of the sampler's config.
        finish: whether a complete run ends with its evaluation and report page.
    """

    name: str
    order: tuple[str, ...]
    stages: Mapping[str, Job]
    data_dir: UserPath
    evaluation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    finish: bool = True


def write_config(workdir: Path, config: Mapping[str, Any] | Chain) -> None:
    """Keep a run's config in its folder, for commands that are given the folder alone.

    Args:
        workdir: of the run; it exists.
        config: of the whole chain or the lone job, as written, with its overrides.
    """
    write_json(workdir / CONFIG, plain(config))


def chain_of(config: Mapping[str, Any] | None, workdir: Path) -> Chain:
    """Return the chain of a config, or without one that which a run was trained by.

    What the command line sets of the config is set in the run's own as well.

    Args:
        config: of a config flag, or None.
        workdir: of the run.

    Raises:
        ConfigError: as `build_chain`, or the run does not say what its config is.
    """
    if config is not None:
        return build_chain(config)
    path = workdir / CONFIG
    try:
        found = read_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{workdir} holds no {CONFIG}, in which a run keeps its config: there is "
            "no run, or an old one. Name a file: --config=configs/FILE.py."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}); name a file: --config=configs/FILE.py."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} holds no config; name a file: --config=configs/FILE.py."
        )
    found, renamed = translate(plain(found))
    if renamed:
        log.info("%s: read with today's names: %s", path, "; ".join(renamed))
    set_fields(found, overrides())
    return build_chain(found)


def build_chain(node: Any) -> Chain:
    """Convert a config, of a chain or of a single job, to a chain.

    A job (it has a `model`) becomes a chain of one stage named by its `name`; what
    belongs to a chain (`data_dir`, `evaluation`, …) stands beside the job's fields.

    Raises:
        ConfigError: as `build`, or stages and order do not agree.
    """
    fields = dict(plain(node))
    if "model" in fields and "stages" in fields:
        raise ConfigError(
            "config.model: a chain has no model of its own, its stages have: "
            "config.stages.NAME.model."
        )
    if "model" in fields:
        shared = {field.name for field in dataclasses.fields(Chain)} - {"name"}
        beside = {key: fields.pop(key) for key in shared & fields.keys()}
        job = build(Job, fields, "config")
        # The paths of a lone job's fields have no `stages.NAME` in them.
        return build(
            Chain,
            {"name": job.name, "order": (job.name,), "stages": {job.name: job}}
            | beside,
        )
    stages = fields.get("stages")
    order = fields.get("order", ())
    if isinstance(stages, Mapping) and isinstance(order, tuple):
        fields["stages"] = {
            key: {"name": key, **stage} if isinstance(stage, Mapping) else stage
            for key, stage in stages.items()
        }
        for name in order:
            if name not in stages:
                raise ConfigError(
                    f"config.order: there is no stage {name!r}"
                    f"{nearest(str(name), stages)}"
                )
        for name in stages:
            if name not in order:
                raise ConfigError(
                    f"config.stages.{name}: not named in config.order"
                    f"{nearest(name, map(str, order))}"
                )
    chain = build(Chain, fields)
    for key, job in chain.stages.items():
        if key in _TAKEN:
            raise ConfigError(
                f"config.stages.{key}: a run keeps something else under this name; "
                "call the stage otherwise."
            )
        if job.name != key:
            raise ConfigError(
                f"config.stages.{key}.name: {job.name!r} is not the stage's name."
            )
    return chain
