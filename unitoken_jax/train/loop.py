"""The loop of one stage: batch, step, metrics, checkpoint, until done or asked to end.

The loop knows no model and no data format. It dispatches a step, and only then reads
the metrics of the step before, so that the device never waits for the host.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from unitoken_jax.config import UserError
from unitoken_jax.train.checkpoint import Checkpointer
from unitoken_jax.train.job import Job, TrainConfig
from unitoken_jax.train.metrics import Recorder, count_items
from unitoken_jax.train.preemption import Preemption
from unitoken_jax.train.state import Params, TrainState

log = logging.getLogger(__name__)

HostBatch = dict[str, np.ndarray]


class DivergedError(UserError):
    """Too many steps in a row were refused."""


class Batches(Protocol):
    """A stream of batches whose whole state is the number of the next step.

    Batches are dicts of arrays; `record` (indices, −1 for none) stays on the host.
    """

    @property
    def position(self) -> int:
        """The step whose batch comes next."""
        ...

    @position.setter
    def position(self, step: int) -> None: ...

    def __next__(self) -> HostBatch:
        """Return the batch at `position` and move on."""
        ...

    def identify(self, record: np.ndarray) -> list[str]:
        """Return the ids of the records of a batch."""
        ...


@dataclass(frozen=True)
class Program:
    """What runs on the devices.

    Attributes:
        step: the compiled step, (state, batch) → (state, metrics).
        place: puts a host's part of a batch on the devices.
        pictures: draws what the model does with a batch, uint8 [H, W, 3] by name, or
            None.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]]
    place: Callable[[HostBatch], Any]
    pictures: Callable[[Params, HostBatch], Mapping[str, np.ndarray]] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a loop ended: `preempted` names the signal, None if all steps are done."""

    state: TrainState
    preempted: str | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class _Pending:
    """A dispatched step whose metrics are still to be read."""

    step: int
    metrics: Mapping[str, jax.Array]
    record: np.ndarray | None
    items: Mapping[str, float]
    wait: float


def run(
    job: Job,
    program: Program,
    state: TrainState,
    batches: Batches,
    checkpointer: Checkpointer,
    *,
    directory: Path,
    meta: Mapping[str, Any],
) -> Outcome:
    """Train from `state` to the last step.

    Args:
        job: the stage's config.
        program: the step and its surroundings.
        state: where to start; its buffers are given up.
        batches: the stream, set to the step of `state`.
        checkpointer: saves now and then, at the end and when asked to end.
        directory: of the stage, for metrics and pictures.
        meta: what is stored with every checkpoint.

    Raises:
        DivergedError: naming the records of the last refused batch.
    """
    config, first = job.train, int(state.step)
    preempted = None
    with (
        Preemption() as preemption,
        _Profile(directory / "profile", config, first) as profile,
        Recorder(directory, job.name, first, config) as recorder,
    ):
        read = _Reader(recorder, batches, job)
        for step in range(first + 1, config.steps + 1):
            profile.before(step)
            began = time.perf_counter()
            batch = dict(next(batches))
            wait = time.perf_counter() - began
            record = batch.pop("record", None)
            state, metrics = program.step(state, program.place(batch))
            read.previous()
            read.pending = _Pending(step, metrics, record, count_items(batch), wait)

            last = step == config.steps
            if config.image_every and (step % config.image_every == 0 or last):
                _draw(program, state, batch, recorder, step)
            preempted = None if last else preemption.requested
            if last or preempted or step % job.checkpoint.every == 0:
                read.previous()  # a checkpoint of a diverged run would not help
                checkpointer.save(state, batches.position, meta)
            if preempted:
                break
        read.previous()
        checkpointer.wait()
        return Outcome(state, preempted, recorder.last)


class _Reader:
    """Reads the metrics of the step that was dispatched last."""

    def __init__(self, recorder: Recorder, batches: Batches, job: Job) -> None:
        self._recorder, self._batches, self._job = recorder, batches, job
        self.pending: _Pending | None = None

    def previous(self) -> None:
        """Record the pending step, if any, and judge whether to go on."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        metrics = {k: float(v) for k, v in jax.device_get(pending.metrics).items()}
        self._recorder.add(pending.step, metrics, pending.items, pending.wait)
        skips = int(metrics["consecutive_skips"])
        if not skips:
            return
        ids = self._ids(pending.record)
        values = f"loss {metrics['loss']:.4g}, grad_norm {metrics['grad_norm']:.4g}"
        log.warning("step %d skipped (%s), records: %s", pending.step, values, ids)
        if skips >= self._job.guard.limit:
            raise DivergedError(
                f"stage {self._job.name!r}: {skips} steps in a row were skipped as "
                f"loss or gradient was not finite or jumped; at step {pending.step}: "
                f"{values}, records: {ids}. Look at these records, or lower "
                "optimizer.learning_rate; guard.limit and guard.spike_factor set "
                "what is tolerated."
            )

    def _ids(self, record: np.ndarray | None) -> str:
        if record is None:
            return "unknown"
        return ", ".join(self._batches.identify(record))


def _draw(
    program: Program,
    state: TrainState,
    batch: HostBatch,
    recorder: Recorder,
    step: int,
) -> None:
    if program.pictures is not None:
        recorder.images(step, program.pictures(state.params, batch))


class _Profile:
    """A window of steps recorded for TensorBoard's or Perfetto's trace viewer."""

    def __init__(self, directory: Path, config: TrainConfig, first: int) -> None:
        self._directory = directory
        self._start = max(config.profile_start, first + 1)
        self._end = self._start + config.profile_steps  # the first step outside
        self._running = False

    def before(self, step: int) -> None:
        """Start or stop before `step` is dispatched."""
        if step == self._start < self._end:
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif step == self._end:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            log.info("profile from step %d on in %s", self._start, self._directory)
        self._running = False

    def __enter__(self) -> "_Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
