"""The loop of one stage: batch, step, metrics, checkpoint, until done or asked to end.

The loop knows no model and no data format. It dispatches a step, and only then reads
the metrics of the step before, so that the device never waits for the host.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.checkpoint.state import Params, TrainState
from unitoken_jax.config import UserError
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.outlet import Outlet
from unitoken_jax.train import preemption
from unitoken_jax.train.alarms import Alarms
from unitoken_jax.train.flight import FlightRecorder
from unitoken_jax.train.goodput import Goodput
from unitoken_jax.train.job import Job, TrainConfig
from unitoken_jax.train.metrics import Recorder, count_items
from unitoken_jax.train.pace import Pace
from unitoken_jax.train.preemption import Preemption
from unitoken_jax.train.watchdog import Watchdog

log = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds for a profile to be written

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
        rows: the rows of the global batch that are this host's part.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]]
    place: Callable[[HostBatch], Any]
    pictures: Callable[[Params, HostBatch], Mapping[str, np.ndarray]] | None = None
    rows: Sequence[int] = ()


@dataclass(frozen=True)
class Outcome:
    """How a loop ended.

    Attributes:
        state: after the last step that was taken.
        complete: whether all steps are done.
        preempted: the signal that asked the run to end, of whatever process; None if
            there was none. It may have come when all steps were done.
        metrics: of the last line that was written.
    """

    state: TrainState
    complete: bool
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
    goodput: Goodput,
    pace: Pace | None = None,
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
        goodput: counts the productive time, over all starts.
        pace: of the chain that the stage is part of.

    Raises:
        DivergedError: naming the records of the last refused batch.
        LostError: another process of the run has ended.
    """
    config, first = job.train, int(state.step)
    poll, saves = processes.Poll(), _Saves(job.checkpoint)
    key = np.asarray(jax.random.key_data(state.key))
    flight = FlightRecorder(
        directory / "flight",
        job.flight,
        process=jax.process_index(),
        rows=program.rows,
        rng=key.ravel().tolist(),
    )
    stacks = directory / f"stacks-{jax.process_index():05d}.txt"
    with (
        Preemption() as asked,
        Watchdog(job.watchdog, stacks, first) as watchdog,
        _Profile(directory / "profile", config, first) as profile,
        Recorder(
            directory, job.name, first, config, pace, writes=processes.is_first()
        ) as recorder,
        flight,
        processes.others_needed("the computation"),
    ):
        read = _Reader(recorder, flight, goodput, batches, job)
        for step in range(first + 1, config.steps + 1):
            profile.before(step, state)
            began = time.perf_counter()
            batch = dict(next(batches))
            record = batch.pop("record", None)
            wait = time.perf_counter() - began
            flight.before(step, batch, record)
            state, metrics = program.step(state, program.place(batch))
            read.previous()
            watchdog.beat(step - 1)
            items = count_items(batch, config.batch)
            read.pending = _Pending(step, metrics, record, items, wait)

            last = step == config.steps
            stop, busy = poll(asked.requested, checkpointer.is_busy)
            tier = saves.decide(step, ending=bool(last or stop), busy=bool(busy))
            draws = config.image_every and (step % config.image_every == 0 or last)
            if tier or draws:
                read.previous()  # a checkpoint of a diverged run would not help
            goodput.add(time.perf_counter() - began - wait)
            with watchdog.suspended():
                if draws:
                    _draw(program, state, batch, recorder, step)
                if tier:
                    save = checkpointer.save
                    if tier == "local":
                        save = checkpointer.save_local
                    save(state, batches.position, {**meta, **goodput.record()})
            if stop:
                break
        read.previous()
        with watchdog.suspended():
            checkpointer.wait()
            # Whoever was asked too late for an answer in the loop says so now.
            asked_for = int(processes.gather([asked.requested]).max())
        complete = int(state.step) == config.steps
        return Outcome(state, complete, preemption.name(asked_for), recorder.last)


class _Saves:
    """When to save: what falls due while something is being written waits for it."""

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        self._due = self._due_locally = False
        self._saved = -1

    def decide(self, step: int, *, ending: bool, busy: bool) -> str:
        """Return what to save after `step`: 'all', 'local' or ''.

        Args:
            step: that was dispatched.
            ending: whether it is the last for now; then everything is saved.
            busy: whether a process is writing, as of the step before if there are
                several.
        """
        config = self._config
        self._due |= step % config.every == 0
        if config.local.directory and step % config.local.every == 0:
            self._due_locally = True
        # What the processes said before they began to write says nothing of that.
        unknown = jax.process_count() > 1 and self._saved == step - 1
        if ending or (self._due and not busy and not unknown):
            tier = "all"
        elif self._due_locally and not busy and not unknown:
            tier = "local"
        else:
            if step % config.every == 0:
                log.info(
                    "step %d falls due to be saved while another is being written; a "
                    "later one is; a larger checkpoint.every leaves time for it",
                    step,
                )
            return ""
        self._due &= tier == "local"
        self._due_locally = False
        self._saved = step
        return tier


class _Reader:
    """Reads the metrics of the step that was dispatched last."""

    def __init__(
        self,
        recorder: Recorder,
        flight: FlightRecorder,
        goodput: Goodput,
        batches: Batches,
        job: Job,
    ) -> None:
        self._recorder, self._flight, self._goodput = recorder, flight, goodput
        self._batches, self._job = batches, job
        self._alarms = Alarms(job.alarms)
        self.pending: _Pending | None = None

    def previous(self) -> None:
        """Record the pending step, if any, and judge whether to go on."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        metrics = {k: float(v) for k, v in jax.device_get(pending.metrics).items()}
        self._flight.after(pending.step, metrics)
        shown = {**metrics, "goodput": self._goodput.share()}
        self._recorder.add(pending.step, shown, pending.items, pending.wait)
        self._alarms.see(pending.step, metrics)
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
        batch = processes.of_first(batch)
        recorder.images(step, program.pictures(state.params, batch))


class _Profile:
    """A window of steps recorded for TensorBoard's or Perfetto's trace viewer.

    A side output: if it cannot be recorded or written, the run goes on without.
    """

    def __init__(self, directory: Path, config: TrainConfig, first: int) -> None:
        self._directory = directory
        self._start = max(config.profile_start, first + 1)
        self._end = self._start + config.profile_steps  # the first step outside
        self._running = False
        self._outlet = Outlet(str(directory), again=False)

    def before(self, step: int, state: TrainState) -> None:
        """Start or stop before `step` is dispatched, which begins with `state`."""
        if step == self._start < self._end:
            start = functools.partial(jax.profiler.start_trace, str(self._directory))
            self._outlet.put(start)
            settled = self._outlet.settle(_PATIENCE)
            self._running = settled and not self._outlet.dropped
        elif step == self._end and self._running:
            jax.block_until_ready(state)  # the window's last step may still run
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._outlet.put(jax.profiler.stop_trace)
            if self._outlet.settle(_PATIENCE) and not self._outlet.dropped:
                log.info("profile from step %d on in %s", self._start, self._directory)
        self._running = False

    def __enter__(self) -> "_Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()  # the metrics of every step have been read
        self._outlet.close()
