"""One stage from its parts: mesh, state, compiled step, loop, and how it ended.

Start at `run` to see how a training is put together.
"""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import state as states
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.checkpoint.manager import (
    Checkpointer,
    missing_checkpoint,
    went_back,
)
from unitoken_jax.checkpoint.reader import Restored
from unitoken_jax.checkpoint.state import Params, TrainState
from unitoken_jax.config import ConfigError, UserError, nearest, plain, render
from unitoken_jax.errors import FailedError
from unitoken_jax.models import registry
from unitoken_jax.models.system import FrozenModels, System
from unitoken_jax.parallel import rows, rules
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train import average, environment, loop
from unitoken_jax.train.adversarial import (
    BACKBONE,
    Adversary,
    make_adversarial_update,
    make_adversary,
)
from unitoken_jax.train.console import log_to_file
from unitoken_jax.train.goodput import Goodput
from unitoken_jax.train.job import Job
from unitoken_jax.train.metrics import last_metrics
from unitoken_jax.train.optimizer import Optimizer, make_optimizer
from unitoken_jax.train.pace import Pace
from unitoken_jax.train.step import (
    Loss,
    Update,
    make_train_step,
    make_update,
    settled,
)

log = logging.getLogger(__name__)

FINISHED = "finished.json"
_ROW_AXES = ("slice", "data", "fsdp")  # mesh axes that share the rows of a batch


class Stream(loop.Batches, Protocol):
    """A stream of batches that holds files or threads."""

    @property
    def digest(self) -> str:
        """Hexadecimal digits for which samples it has, in what order."""
        ...

    def close(self) -> None:
        """Let go of them."""
        ...


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a stage is made of; the loop itself knows none of it.

    Attributes:
        system: the model.
        data: the loader's config, complete, for the record.
        batches: the stream, at its beginning.
        pictures: draws what the model does with a batch, or None.
        frozen_models: the frozen networks that loss and adversary consult.
    """

    system: System
    data: Any
    batches: Stream
    pictures: Callable[[Params, loop.HostBatch], Mapping[str, np.ndarray]] | None = None
    frozen_models: FrozenModels = dataclasses.field(default_factory=dict)


def is_finished(directory: Path, steps: int) -> bool:
    """Say whether the stage in `directory` has been trained for `steps` steps."""
    found = _finished(directory).get("steps")
    return type(found) is int and found == steps


def origins_of(directory: Path) -> dict[str, str]:
    """Return what a complete stage has started from, as `run` was told it."""
    found = _finished(directory).get("origins")
    return dict(found) if isinstance(found, Mapping) else {}


def _finished(directory: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((directory / FINISHED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def check_resume(
    job: Job,
    system: System,
    directory: Path,
    at: str,
    restore_step: int | None = None,
) -> None:
    """Refuse what a stage has trained so far, if the config has no place for it.

    What cannot be read is left to the restore, which knows older checkpoints.

    Args:
        job: the stage's config.
        system: the model.
        directory: of the stage; it may be missing.
        at: dotted path of `job` in the config, for messages.
        restore_step: the checkpoint that will be gone back to.

    Raises:
        UserError: it has more steps than the stage is to have, or other parameters, or
            there is nothing to go back to.
    """
    found = checkpoints.steps(directory / "checkpoints")
    if restore_step is not None and restore_step not in found:
        _check_way_back(job, directory / "checkpoints", restore_step)
    if not found:
        return
    if restore_step is None or restore_step in found:
        newest = max(found) if restore_step is None else restore_step
        _check_step(job, newest, directory, at)
    try:
        saved = checkpoints.parameter_shapes(directory)
    except (UserError, OSError):
        return
    shapes = flatten(registry.check_shapes(system, f"{at}.model"))
    wanted = {path: leaf.shape for path, leaf in shapes.items()}
    if problems := checkpoints.describe_differences(saved, wanted):
        raise ConfigError(
            f"{at}.model: the checkpoint in {directory} was made with another config: "
            f"{problems}. Set the config to that, or use another --workdir."
        )


def _check_way_back(job: Job, checkpoint_dir: Path, step: int) -> None:
    """Refuse to go back to what is not there, as far as this host can tell."""
    is_elsewhere = job.checkpoint.local.directory or went_back(checkpoint_dir) == step
    if not is_elsewhere:
        raise missing_checkpoint(step, checkpoint_dir)


def run(
    job: Job,
    parts: Parts,
    directory: Path,
    *,
    at: str = "config",
    sources: Mapping[str, tuple[Path, str]] | None = None,
    origins: Mapping[str, str] | None = None,
    restore_step: int | None = None,
    devices: Sequence[Any] | None = None,
    pace: Pace | None = None,
) -> loop.Outcome:
    """Train one stage, from its newest checkpoint if it has one.

    Args:
        job: the stage's config.
        parts: what it is made of.
        directory: of the stage; made if missing.
        at: dotted path of `job` in the config, for messages.
        sources: our subtree → (directory, subtree) to start from, see `warm_start`.
        origins: stage that it starts from, or whose codes it sees → a mark of what
            that has come to, kept to notice when it is trained again.
        restore_step: the checkpoint to go back to, see `Checkpointer.restore`.
        devices: to run on; all if None.
        pace: of the chain that the stage is part of, to say when that ends.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _logged(directory):
        began, now = time.monotonic(), time.time()
        description = _describe(job, parts, directory, at)
        _check_streams(parts.batches.digest, at)
        layout = lay_out(job, parts.system, at, devices)
        with Checkpointer(directory / "checkpoints", job.checkpoint) as checkpointer:
            restored = checkpointer.restore(layout.abstract, restore_step)
            if restored is not None:
                _check_step(job, int(restored.state.step), directory, at)
                _reopen(directory, restored, restore_step)
            _write_description(directory, description)
            if restored is None:
                state, position, meta = start(job, layout, sources or {}), 0, {}
            else:
                state, position = restored.state, restored.position
                meta = restored.meta
                log.info(
                    "resuming at step %d of %d, sample %d of the data",
                    *(int(state.step), job.train.steps, position),
                )
                _report_changes(meta, description)
                _report_stream(meta, parts.batches.digest)
                origins = _origins(meta, origins or {}, job.name)
            _report_size(state, layout.optimizer)
            program = compile_step(job, parts, layout, state)
            parts.batches.position = position
            outcome = loop.run(
                job,
                program,
                state,
                parts.batches,
                checkpointer,
                directory=directory,
                meta={
                    **description,
                    "origins": dict(origins or {}),
                    "stream": parts.batches.digest,
                },
                goodput=Goodput(meta, directory / "metrics.jsonl", now),
                pace=pace,
            )
            if outcome.complete:
                checkpointer.discard_local()
        if outcome.complete:
            seconds = time.monotonic() - began
            _finish(job, directory, outcome, seconds, origins or {})
        return outcome


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is known before anything is computed.

    Attributes:
        mesh: the devices.
        params: a sharding for each parameter, nested.
        replicated: the sharding of what every device holds.
        optimizer: of the trainable parameters.
        adversary: the discriminator, or None.
        create: random key → fresh state.
        abstract: shapes, types and shardings of the state.
    """

    mesh: Mesh
    params: Params
    replicated: NamedSharding
    optimizer: Optimizer
    adversary: Adversary | None
    create: Callable[[jax.Array], TrainState]
    abstract: TrainState

    @property
    def shardings(self) -> TrainState:
        """The sharding of every leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)


def lay_out(job: Job, system: System, at: str, devices: Sequence[Any] | None) -> Layout:
    """Say where everything of a stage will live; the arguments are those of `run`."""
    mesh = make_mesh(job.mesh, devices)
    check_microbatches(job, system, at)
    check_rows(job, mesh, at)
    shapes = registry.abstract_params(system)
    params = rules.shardings(registry.logical_axes(system), shapes, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    optimizer = make_optimizer(
        job.optimizer, flatten(shapes), job.train.steps, f"{at}.optimizer"
    )

    adversary = check_adversary(job, system, at)

    def keep(params: Params) -> Any:
        kept: Any = optimizer.init(params)
        if adversary is not None:
            kept = {"model": kept, "adversary": adversary.init()}
        return average.start(params, kept) if job.train.average else kept

    def create(key: jax.Array) -> TrainState:
        return states.create(system.init_params, keep, key)

    state = jax.eval_shape(create, jax.random.key(0))
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        states.shardings(state, params, replicated),
    )
    return Layout(mesh, params, replicated, optimizer, adversary, create, abstract)


def start(
    job: Job, layout: Layout, sources: Mapping[str, tuple[Path, str]]
) -> TrainState:
    """Return a fresh state with its parts of earlier stages."""
    # It runs once: on the CPU, optimizing it takes far longer than running it.
    is_cpu = layout.mesh.devices.flat[0].platform == "cpu"
    options: dict[str, Any] | None = None
    if is_cpu:
        options = {"xla_backend_optimization_level": 0}
    key = jax.random.key(job.seed)
    with jax.set_mesh(layout.mesh):
        create = jax.jit(layout.create, out_shardings=layout.shardings).lower(key)
        state = create.compile(compiler_options=options)(key)
    params = warm_start.replace(state.params, layout.params, sources)
    kept = state.optimizer
    if job.train.average and sources:  # so far it is of what was replaced
        kept = average.start(params, kept["rest"])
    return dataclasses.replace(state, params=params, optimizer=kept)


def compile_step(
    job: Job, parts: Parts, layout: Layout, state: TrainState
) -> loop.Program:
    """Compile the step for the shapes of the first batch."""
    began = time.monotonic()
    own = rows.local_rows(job.train.batch, layout.mesh)

    def place(batch: loop.HostBatch) -> dict[str, jax.Array]:
        return rows.place(batch, job.train.batch, own, layout.mesh)

    step = make_step(job, parts.system, layout)
    batch = {k: x for k, x in next(parts.batches).items() if k != "record"}
    frozen_models = jax.device_put(dict(parts.frozen_models), layout.replicated)
    with jax.set_mesh(layout.mesh):
        lowered = step.lower(state, place(batch), frozen_models)
        compiled = lowered.compile(compiler_options=compiler_options(job, layout))
    log.info("compiled in %.1f s", time.monotonic() - began)
    return loop.Program(
        lambda state, batch: compiled(state, batch, frozen_models),
        place,
        parts.pictures,
        own.tolist(),
    )


def make_step(job: Job, system: System, layout: Layout) -> Any:
    """Return the jitted step (state, batch, frozen_models) → (state, metrics)."""

    def train_step(state: TrainState, batch: Any, frozen_models: FrozenModels) -> Any:
        update = make_step_update(
            job, system, layout.optimizer, layout.adversary, frozen_models
        )
        return make_train_step(update, job.guard)(state, batch)

    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(layout.shardings, layout.replicated),
    )


def compiler_options(job: Job, layout: Layout) -> dict[str, Any] | None:
    """Return the job's options for the compiler of its devices, None for others."""
    is_tpu = layout.mesh.devices.flat[0].platform == "tpu"
    return dict(job.tpu_options) if is_tpu and job.tpu_options else None


def make_step_update(
    job: Job,
    system: System,
    optimizer: Optimizer,
    adversary: Adversary | None,
    frozen_models: FrozenModels,
) -> Update:
    """Return the update of a job's step.

    Args:
        job: the stage's config.
        system: the model.
        optimizer: of its parameters.
        adversary: the discriminator, or None.
        frozen_models: frozen networks; inside a jitted function, its arguments.
    """
    if adversary is not None and system.generator_loss is not None:
        update = make_adversarial_update(
            system.generator_loss, optimizer, adversary, frozen_models
        )
    else:
        loss = loss_of(system, frozen_models)
        update = make_update(loss, optimizer, job.train.microbatches)
    if system.post_update is not None:
        update = settled(update, system.post_update)
    if job.train.average:
        update = average.averaged(update, job.train.average)
    return update


def loss_of(system: System, frozen_models: FrozenModels) -> Loss:
    """Return the loss of a system, given the frozen networks it consults."""
    if not system.frozen_models:
        return system.loss
    return functools.partial(system.loss, frozen_models=frozen_models)


def check_microbatches(job: Job, system: System, at: str) -> None:
    """Refuse to part a batch whose elements the loss compares with each other.

    Args:
        job: the stage's config.
        system: the model.
        at: dotted path of the config, for messages.

    Raises:
        ConfigError: naming the field.
    """
    if system.whole_batch and job.train.microbatches > 1:
        raise ConfigError(
            f"{at}.train.microbatches: the loss of this {system.kind} compares the "
            "elements of the whole batch with each other; set it to 1."
        )


def check_adversary(job: Job, system: System, at: str) -> Adversary | None:
    """Lay out a job's discriminator and check the frozen networks it names.

    Args:
        job: the stage's config.
        system: the model.
        at: dotted path of the config, for messages.

    Raises:
        ConfigError: a frozen network is not named or not wanted, or the discriminator
            does not fit the system.
    """
    wanted = set(system.frozen_models)
    config = job.adversary
    if config is not None and config.frozen:
        wanted.add(BACKBONE)
    for name in sorted(wanted - job.companions.keys()):
        raise ConfigError(
            f"{at}.companions: the training consults a frozen network {name!r}; name "
            "its weights there, {'" + name + "': {'format': …, 'path': …}}."
        )
    for name in sorted(job.companions.keys() - wanted):
        raise ConfigError(
            f"{at}.companions.{name}: nothing consults it{nearest(name, wanted)}"
        )
    if config is None:
        return None
    if system.generator_loss is None:
        raise ConfigError(
            f"{at}.adversary: this {system.kind} draws nothing that could be judged; "
            "remove it."
        )
    if job.train.microbatches > 1:
        raise ConfigError(
            f"{at}.train.microbatches: the adversary's weight is that of the whole "
            "batch; set it to 1."
        )
    return make_adversary(config, job.train.steps, f"{at}.adversary")


def _finish(
    job: Job,
    directory: Path,
    outcome: loop.Outcome,
    seconds: float,
    origins: Mapping[str, str],
) -> None:
    """Mark the stage as complete."""
    # Nothing is left to do where an earlier start was killed before it came here.
    metrics = outcome.metrics or last_metrics(directory, job.train.steps)
    content = {
        "steps": job.train.steps,
        "seconds": seconds,
        "metrics": dict(metrics),
        "origins": dict(origins),
    }
    if processes.is_first():
        environment.write_json(directory / FINISHED, content)
    processes.wait_for_all(f"the end of stage {job.name}")
    log.info("stage %s is complete after %.0f s", job.name, seconds)


@contextmanager
def _logged(directory: Path) -> Iterator[None]:
    """Keep a log in the stage's directory, with the traceback of a failure."""
    if not processes.is_first():
        yield
        return
    with log_to_file(directory / "log.txt"):
        try:
            yield
        except Exception:
            log.exception("the stage failed", extra={"file_only": True})
            raise


def _describe(job: Job, parts: Parts, directory: Path, at: str) -> dict[str, Any]:
    """Log config and environment; return them, as they stand in the checkpoints."""
    model = {"kind": parts.system.kind, **plain(parts.system.config)}
    complete = dataclasses.replace(job, model=model, data=plain(parts.data))
    config, surroundings = plain(complete), environment.describe()
    text = render(complete, at)
    log.info("%s", text, extra={"file_only": True})
    log.info(
        "config: %s, %d fields, also in %s",
        *(directory / "config.json", len(text.splitlines()), directory / "log.txt"),
        extra={"console_only": True},
    )
    devices = surroundings["devices"]
    log.info(
        "%d %s device(s), jax %s, revision %s",
        *(devices["count"], devices["kind"], jax.__version__, surroundings["revision"]),
    )
    return {"config": config, "environment": surroundings}


def _write_description(directory: Path, description: Mapping[str, Any]) -> None:
    """Write config and environment, now that the stage is sure to have them."""
    if processes.is_first():
        for name, content in description.items():
            environment.write_json(directory / f"{name}.json", content)


def _check_step(job: Job, step: int, directory: Path, at: str) -> None:
    """Refuse parameters that have been trained for longer than the stage is to be."""
    steps = job.train.steps
    if step > steps:
        raise ConfigError(
            f"{at}.train.steps: {steps}, but the checkpoint in {directory} is of step "
            f"{step}; set it to {step} or more, or use another --workdir."
        )


def _reopen(directory: Path, restored: Restored, restore_step: int | None) -> None:
    """Take back that a stage is complete if the run went back in it."""
    if int(restored.state.step) == restore_step and processes.is_first():
        (directory / FINISHED).unlink(missing_ok=True)


def _check_streams(digest: str, at: str) -> None:
    """Refuse processes that would feed rows of different streams into one batch."""
    words = [int(digest[i : i + 4], 16) for i in range(0, len(digest), 4)]
    said = processes.gather(words)
    others = np.flatnonzero((said != said[0]).any(1)).tolist()
    if others:
        raise FailedError(
            f"{at}.data: process {', '.join(map(str, others))} has other samples, or "
            "in another order, than process 0. Either they see different data, or a "
            "record could not be read by one of them, whose output names it; compare "
            "the data sets and run again."
        )


def check_rows(job: Job, mesh: Mesh, at: str) -> None:
    """Refuse a batch that the devices of a mesh cannot share equally."""
    shards = int(np.prod([mesh.shape[axis] for axis in _ROW_AXES]))
    rows = job.train.batch // job.train.microbatches
    if rows % shards:
        raise ConfigError(
            f"{at}.train.batch: {job.train.batch} in {job.train.microbatches} "
            f"microbatches are {rows} elements at a time, which {shards} devices "
            f"cannot share equally; choose a multiple of {shards}."
        )


def _report_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn of fields that differ from the config of the checkpoint."""
    # Through JSON and back, so that tuples and lists compare.
    old, new = (
        set(render(json.loads(json.dumps(meta.get("config", {}))), "").splitlines())
        for meta in (before, now)
    )
    for line in sorted(new - old):
        log.warning("changed since the checkpoint: %s", line.removeprefix("."))


def _report_stream(before: Mapping[str, Any], digest: str) -> None:
    """Warn of another stream than the checkpoint's; older ones do not say."""
    if before.get("stream", digest) != digest:
        log.warning(
            "the data has other samples than at the checkpoint, or in another order: "
            "the config or the data set has changed, or a record could not be read, "
            "then or now, as a warning says. The run goes on with what there is now."
        )


def _origins(
    before: Mapping[str, Any], now: Mapping[str, str], name: str
) -> dict[str, str]:
    """Return what a resumed stage has started from; warn if that is gone since."""
    kept = dict(before.get("origins", {}))
    if others := changed_origins(kept, now):
        log.warning(
            "stage %s began from another %s than there is now, and goes on with what "
            "it has; to train it anew, remove its folder.",
            *(name, " and ".join(others)),
        )
    return kept


def changed_origins(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name the stages that have come to something else; of unknown ones none."""
    return sorted(name for name in before.keys() & now if before[name] != now[name])


def _report_size(state: TrainState, optimizer: Optimizer) -> None:
    trainable, frozen = optimizer.split(state.params)
    moving, still = (sum(x.size for x in flat.values()) for flat in (trainable, frozen))
    log.info("%s trainable and %s frozen parameters", f"{moving:,}", f"{still:,}")
