"""One step again: what was not finite in it first, and whose records those were.

The nearest checkpoint before the step is restored and the steps between are taken once
more, each compared with the flight recorder. Then the step's update is evaluated tensor
by tensor (`nonfinite.py`), and halves of its batch find the rows that are to blame.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.config import UserError
from unitoken_jax.parallel.mesh import Devices
from unitoken_jax.runtime import environment
from unitoken_jax.runtime.pytree import PyTree
from unitoken_jax.train.components import StageComponents
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.loop import Batch, HostBatch
from unitoken_jax.train.monitor import flight_recorder, nonfinite
from unitoken_jax.train.program import TrainProgram, loss_of, make_program
from unitoken_jax.train.update.step import make_gradient

log = logging.getLogger(__name__)

_TRACES = ("checkpoints", "flight", "metrics.jsonl")  # of a run, in its directory
_NAMED = 8  # rows to blame, before it is the whole batch
_NAMES = {  # field of the state → its name in messages
    "params": "parameters",
    "opt_state": "optimizer",
    "ema": "ema",
    "discriminator": "discriminator",
}
_AGREES = 1e-3  # of a loss, relative: as another mesh or device rounds


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a replay found.

    Attributes:
        step: that was executed again.
        start: step of the checkpoint it began from; 0 for the beginning.
        deviations: where the replay differs from what the flight recorder holds.
        loss: of the step.
        origins: results of the step that are not finite (`metrics/loss`,
            `parameters/…`) → the tensor in which that began, in a sentence.
        gradients: paths of the parameters whose gradient is not finite.
        rows: of the batch that are not finite by themselves.
        records: their ids, or those of the whole batch if it is no single row.
    """

    step: int
    start: int
    deviations: Sequence[str]
    loss: float
    origins: Mapping[str, str]
    gradients: Sequence[str]
    rows: Sequence[int]
    records: Sequence[str]

    def lines(self) -> list[str]:
        """Say it in sentences, the most important first."""
        said = [f"step {self.step} from checkpoint {self.start}: loss {self.loss:.6g}"]
        said += [f"differs from the record: {text}" for text in self.deviations]
        if not self.origins:
            return [*said, "everything in this step is finite"]
        # What follows from one tensor is told once.
        causes: dict[str, list[str]] = {}
        for result, cause in self.origins.items():
            causes.setdefault(cause, []).append(result)
        for cause, results in causes.items():
            shown = ", ".join(results[:3]) + (" …" if len(results) > 3 else "")
            said.append(f"not finite first: {cause}; from there {shown}")
        if self.gradients:
            shown = ", ".join(self.gradients[:3])
            said.append(
                f"{len(self.gradients)} gradients are not finite, such as {shown}"
            )
        whose = f"row {', '.join(map(str, self.rows))}" if self.rows else "no row alone"
        ids = ", ".join(self.records[:_NAMED]) or "unknown"
        return [*said, f"to blame: {whose}; records: {ids}"]


def replay(
    stage: StageConfig,
    parts: StageComponents,
    directory: Path,
    step: int,
    *,
    config_path: str = "config",
    sources: Mapping[str, tuple[Path, str]] | None = None,
    devices: Devices | None = None,
) -> Finding:
    """Execute a step again; nothing but `replay-STEP.json` is written.

    Args:
        stage: the stage's config; its mesh may be another than the run's.
        parts: what it is made of.
        directory: of the stage.
        step: counted from 1, as in the log.
        config_path: dotted path of `stage` in the config, for messages.
        sources: see `stage.run`.
        devices: see `stage.run`.

    Raises:
        UserError: the stage has no such step or was never trained in `directory`, or
            there are several processes.
    """
    if jax.process_count() > 1:
        raise UserError("--replay runs in one process; its mesh may be another.")
    if not 1 <= step <= stage.train.steps:
        raise UserError(
            f"--replay={step}: the stage {stage.name!r} has steps 1 to "
            f"{stage.train.steps}."
        )
    if not any((directory / name).exists() for name in _TRACES):
        raise UserError(
            f"--replay={step}: {directory} holds neither a checkpoint nor a flight "
            "record of a run; give the --workdir and --stage of the step."
        )
    layout = make_program(stage, parts.system, config_path, devices)
    state, start, position = _restore(directory, layout, step - 1)
    if state is None:
        state = layout.init_state(sources or {})
    log.info("replaying step %d from step %d", step, start)
    program = layout.compile(parts.batches.batch_spec, parts.frozen_models)
    recorded = flight_recorder.read(directory / "flight", range(start + 1, step + 1))
    deviations: list[str] = []
    parts.batches.position = position
    for number in range(start + 1, step):
        batch, _ = _next(parts)
        deviations += _compare_input(number, batch, recorded.get(number, {}))
        state, metrics = program.step(state, program.place(batch))
        deviations += _compare_loss(number, metrics, recorded.get(number, {}))
    batch, record = _next(parts)
    deviations += _compare_input(step, batch, recorded.get(step, {}))
    case = _Case(state, batch, record, program.place)
    with jax.set_mesh(layout.mesh):
        finding = _look(stage, parts, layout, case)
    deviations += _compare_loss(step, {"loss": finding.loss}, recorded.get(step, {}))
    finding = dataclasses.replace(
        finding, step=step, start=start, deviations=tuple(deviations)
    )
    environment.write_json(
        directory / f"replay-{step}.json",
        {"sentences": finding.lines(), **dataclasses.asdict(finding)},
    )
    return finding


def _restore(
    directory: Path, layout: TrainProgram, latest: int
) -> tuple[TrainState | None, int, int]:
    """Return the newest readable checkpoint up to a step, its step and position.

    A run may be under way.
    """
    folder = directory / "checkpoints"
    for number in sorted(checkpoints.steps(folder), reverse=True):
        if number > latest:
            continue
        try:
            restored = checkpoints.read(folder / str(number), layout.abstract)
        except checkpoints.DAMAGE as error:
            log.warning("checkpoint %d is damaged (%s)", number, error)
            continue
        return restored.state, number, restored.position
    return None, 0, 0


def _next(parts: StageComponents) -> tuple[HostBatch, np.ndarray | None]:
    batch = dict(next(parts.batches))
    return batch, batch.pop("record", None)


def _compare_input(
    step: int, batch: HostBatch, entries: Mapping[int, flight_recorder.Entry]
) -> list[str]:
    rows = len(next(iter(batch.values())))
    return [
        f"the input of step {step} on process {process} is not what it was; data, "
        "config or code have changed"
        for process, entry in entries.items()
        if max(entry.rows, default=0) < rows
        and flight_recorder.digest({k: x[list(entry.rows)] for k, x in batch.items()})
        != entry.digest
    ]


def _compare_loss(
    step: int,
    metrics: Mapping[str, jax.Array | float],
    entries: Mapping[int, flight_recorder.Entry],
) -> list[str]:
    now = float(metrics["loss"])
    before = [e.metrics["loss"] for e in entries.values() if "loss" in e.metrics][:1]
    return [
        f"the loss of step {step} was {loss:.6g}, here it is {now:.6g}"
        for loss in before
        if not np.isclose(loss, now, rtol=_AGREES, equal_nan=True)
    ]


@dataclasses.dataclass(frozen=True)
class _Case:
    """A step that is about to be taken."""

    state: TrainState
    batch: HostBatch
    record: np.ndarray | None
    place: Callable[[HostBatch], Batch]


def _look(
    stage: StageConfig, parts: StageComponents, layout: TrainProgram, case: _Case
) -> Finding:
    """Look into the update of one step."""
    state, batch, record, place = case.state, case.batch, case.record, case.place
    key = jax.random.fold_in(state.key, state.step)

    def step(inputs: Mapping[str, PyTree]) -> dict[str, PyTree]:
        learned = {field: inputs[name] for field, name in _NAMES.items()}
        before = dataclasses.replace(state, **learned)
        after, metrics = layout.update(
            before, inputs["batch"], key, parts.frozen_models
        )
        return {"metrics": metrics, **_named(after)}

    inputs = _named(state)
    results, found = nonfinite.find(step, {**inputs, "batch": place(batch)})
    rows: list[int] = []
    gradients: list[str] = []
    if found:
        judge = jax.jit(
            lambda inputs: [step(inputs)["metrics"][k] for k in ("loss", "grad_norm")]
        )
        size = len(next(iter(batch.values())))

        def is_finite(rows: Sequence[int]) -> bool:
            chosen = {k: x[np.resize(rows, size)] for k, x in batch.items()}
            values = judge({**inputs, "batch": place(chosen)})
            return all(bool(jnp.isfinite(value)) for value in values)

        rows = _blame(is_finite, range(size))
        if layout.discriminator is None:
            gradient = make_gradient(
                loss_of(parts.system), layout.optimizer, stage.train.microbatches
            )
            flat, _ = jax.jit(gradient)(
                state.params, place(batch), key, parts.frozen_models
            )
            gradients = [k for k, x in flat.items() if not bool(jnp.isfinite(x).all())]
    if record is not None and rows and max(rows) < len(record):
        record = record[rows]
    return Finding(
        step=0,
        start=0,
        deviations=(),
        loss=float(results["metrics"]["loss"]),
        origins={result: origin.sentence() for result, origin in found.items()},
        gradients=gradients,
        rows=rows,
        records=[] if record is None else parts.batches.identify(record),
    )


def _named(state: TrainState) -> dict[str, PyTree]:
    """Return what a state has learned, by its name in messages."""
    return {name: getattr(state, field) for field, name in _NAMES.items()}


def _blame(is_finite: Callable[[Sequence[int]], bool], rows: range) -> list[int]:
    """Return the rows that are not finite by themselves, by halves.

    Too many are no row's fault: then none are named.
    """
    to_blame: list[int] = []
    open_parts = [rows]
    while open_parts and len(to_blame) <= _NAMED:
        part = open_parts.pop(0)
        if is_finite(part):
            continue
        if len(part) == 1:
            to_blame.append(part[0])
        else:
            middle = len(part) // 2
            open_parts += [part[:middle], part[middle:]]
    return sorted(to_blame) if len(to_blame) <= _NAMED else []
