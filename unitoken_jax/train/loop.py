"""The loop of one stage: batch, step, metrics, checkpoint, until done or asked to end.

The loop knows no model and no data format. It dispatches a step, and only then reads
the metrics of the step before, so that the device never waits for the host.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from data_pipelines.loader import Loader
from unitoken_jax.checkpoint.manager import Checkpointer
from unitoken_jax.checkpoint.reader import CheckpointError
from unitoken_jax.checkpoint.state import Params, TrainState
from unitoken_jax.config import UserError
from unitoken_jax.runtime import preemption, processes
from unitoken_jax.runtime.outlet import Outlet
from unitoken_jax.runtime.preemption import Preemption
from unitoken_jax.train.config import StageConfig, TrainConfig
from unitoken_jax.train.monitor.alarms import Alarms
from unitoken_jax.train.monitor.flight_recorder import FlightRecorder
from unitoken_jax.train.monitor.goodput import Goodput
from unitoken_jax.train.monitor.metrics import Recorder, count_items
from unitoken_jax.train.monitor.pace import Pace
from unitoken_jax.train.monitor.soundness import Soundness, is_finite, tried
from unitoken_jax.train.monitor.watchdog import Watchdog

log = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds for a profile to be written

_LAST_STEPS = 10  # that a run which is to end may take to reach a good state

HostBatch = dict[str, np.ndarray]
"""A host's part of a batch; `record` (indices, −1 for none) stays on the host."""
Batch = Mapping[str, jax.Array]


class DivergedError(UserError):
    """Too many steps in a row were refused."""


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

    step: Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, jax.Array]]]
    place: Callable[[HostBatch], Batch]
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
        saved: the step that was saved last; None if none was.
    """

    state: TrainState
    complete: bool
    preempted: str | None
    metrics: Mapping[str, float]
    saved: int | None = None


@dataclass(frozen=True)
class _Pending:
    """A dispatched step whose metrics are still to be read."""

    step: int
    metrics: Mapping[str, jax.Array]
    record: np.ndarray | None
    items: Mapping[str, float]
    wait: float


def run(
    stage: StageConfig,
    program: Program,
    state: TrainState,
    batches: Loader,
    checkpointer: Checkpointer,
    *,
    directory: Path,
    meta: Mapping[str, object],
    goodput: Goodput,
    pace: Pace | None = None,
) -> Outcome:
    """Train from `state` to the last step.

    Args:
        stage: the stage's config.
        program: the step and its surroundings.
        state: where to start; its buffers are given up.
        batches: the stream, set to where `state` stands in it.
        checkpointer: saves now and then, at the end and when asked to end.
        directory: of the stage, for metrics and pictures.
        meta: what is stored with every checkpoint.
        goodput: counts the productive time, over all starts.
        pace: of the chain that the stage is part of.

    Raises:
        DivergedError: naming the records of the last refused batch, or as nothing was
            learned.
        LostError: another process of the run has ended.
    """
    config, first = stage.train, int(state.step)
    poll, saves = processes.Poll(), _Saves(stage, checkpointer, first)
    key = np.asarray(jax.random.key_data(state.key))
    flight = FlightRecorder(
        directory / "flight",
        stage.flight_recorder,
        process=jax.process_index(),
        rows=program.rows,
        rng=key.ravel().tolist(),
    )
    stacks = directory / f"stacks-{jax.process_index():05d}.txt"
    with (
        Preemption() as asked,
        Watchdog(stage.watchdog, stacks, first) as watchdog,
        _Profile(directory / "profile", config, first) as profile,
        Recorder(
            directory, stage.name, first, config, pace, writes=processes.is_first()
        ) as recorder,
        flight,
        processes.others_needed("the computation"),
    ):
        read = _Reader(recorder, flight, goodput, batches, saves)
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
                    record = {**meta, **goodput.record()}
                    saves.save(tier, state, batches.position, record)
            if stop and saves.are_over(step):
                break
        read.previous()
        complete = int(state.step) == config.steps
        with watchdog.suspended():
            if complete:
                record = {**meta, **goodput.record()}
                state = saves.conclude(program, state, batches, record)
            checkpointer.wait()
            # Whoever was asked too late for an answer in the loop says so now.
            asked_for = int(processes.gather([asked.requested]).max())
        signal = preemption.name(asked_for)
        return Outcome(state, complete, signal, recorder.last, saves.saved)


class _Saves:
    """When to save, and that only what is good is saved.

    What falls due while something is being written waits for it, and what falls due at
    a step that was skipped for one that is accepted.

    Attributes:
        stage: the stage's config.
        sound: what the judged steps say of the state.
        saved: the step that was saved last for all; None if none was.
    """

    def __init__(
        self, stage: StageConfig, checkpointer: Checkpointer, first: int
    ) -> None:
        self.stage = stage
        self.sound = Soundness(first)
        self.saved: int | None = None
        self._checkpointer = checkpointer
        self._due = self._due_locally = False
        self._written = -1
        self._put_off = 0  # in a row

    def decide(self, step: int, *, ending: bool, busy: bool) -> str:
        """Return what to save after `step`: 'all', 'local' or ''.

        Args:
            step: that was dispatched.
            ending: whether it is the last for now; then everything is saved.
            busy: whether a process is writing, as of the step before if there are
                several.
        """
        config = self.stage.checkpoint
        self._due |= step % config.every == 0
        if config.local.directory and step % config.local.every == 0:
            self._due_locally = True
        # What the processes said before they began to write says nothing of that.
        unknown = jax.process_count() > 1 and self._written == step - 1
        if ending or (self._due and not busy and not unknown):
            return "all"
        if self._due_locally and not busy and not unknown:
            return "local"
        if step % config.every == 0:
            log.info(
                "step %d falls due to be saved while another is being written; a later "
                "one is; a larger checkpoint.every leaves time for it",
                step,
            )
        return ""

    def save(
        self, tier: str, state: TrainState, position: int, meta: Mapping[str, object]
    ) -> None:
        """Save a state whose step was judged, as `decide` said, if it is good."""
        step = int(state.step)
        if not self.sound.may_save(state):
            self._put_off += 1
            if self._put_off == 1:
                log.warning(
                    "step %d is not saved, as it was skipped or left parameters that "
                    "are not finite; the next good one is.",
                    step,
                )
            return
        self._put_off, self._written = 0, step
        self._due_locally = False
        if tier == "local":
            self._checkpointer.save_local(state, position, meta)
            return
        self._due = False
        self.saved = step
        self._checkpointer.save(state, position, meta)

    def are_over(self, step: int) -> bool:
        """Say whether a run that was asked to end has saved, or has tried for long."""
        return self.saved == step or self._put_off >= _LAST_STEPS

    def conclude(
        self,
        program: Program,
        state: TrainState,
        batches: Loader,
        meta: Mapping[str, object],
    ) -> TrainState:
        """Save the last state, unless it is saved, once it is known to be good.

        Raises:
            DivergedError: nothing was learned, or the state is of no use.
        """
        stage, sound = self.stage, self.sound
        steps, position = stage.train.steps, batches.position
        if sound.first < steps and sound.accepted is None:
            raise DivergedError(
                f"stage {stage.name!r}: each of the steps {sound.first + 1} to {steps} "
                "was skipped, so that nothing was learned in them; the stage is not "
                f"complete. {self.advice()}"
            )
        if not int(state.guard.accepted):
            raise DivergedError(
                f"stage {stage.name!r}: all of its {steps} steps were skipped, so that "
                f"nothing was learned; it is not complete. {self.advice()}"
            )
        if steps in (sound.first, self.saved):
            return state

        def step(state: TrainState) -> tuple[TrainState, Mapping[str, jax.Array]]:
            batch = {k: x for k, x in next(batches).items() if k != "record"}
            return program.step(state, program.place(batch))

        is_good = is_finite(state)
        if is_good:
            state, is_good = tried(state, step)
        if not is_good:
            raise DivergedError(
                f"stage {stage.name!r}: the last steps were skipped, and so are steps "
                f"on further batches; the stage is not complete. {self.advice()}"
            )
        self.saved = steps
        self._checkpointer.save(state, position, meta)
        return state

    def advice(self) -> str:
        """Say in a sentence what to go back to."""
        with contextlib.suppress(CheckpointError):  # its own end says why
            self._checkpointer.wait()
        found = self._checkpointer.steps()
        good = self.sound.newest_good(found)
        if good is not None:
            return (
                f"The newest checkpoint that is known to be good is that of step "
                f"{good}: --stage={self.stage.name} --restore_step={good} goes back "
                "to it."
            )
        there = "There is no checkpoint"
        if found:
            there = f"Of the checkpoints ({', '.join(map(str, found))}) none is"
        return (
            f"{there} known to be good; to begin the stage anew, remove its directory."
        )


class _Reader:
    """Reads the metrics of the step that was dispatched last."""

    def __init__(
        self,
        recorder: Recorder,
        flight: FlightRecorder,
        goodput: Goodput,
        batches: Loader,
        saves: _Saves,
    ) -> None:
        self._recorder, self._flight, self._goodput = recorder, flight, goodput
        self._batches, self._saves, self._stage = batches, saves, saves.stage
        self._alarms = Alarms(self._stage.alarms)
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
        self._saves.sound.see(pending.step, metrics)
        skips = int(metrics["consecutive_skips"])
        if not skips:
            return
        ids = self._ids(pending.record)
        values = f"loss {metrics['loss']:.4g}, grad_norm {metrics['grad_norm']:.4g}"
        log.warning("step %d skipped (%s), records: %s", pending.step, values, ids)
        if skips >= self._stage.guard.limit:
            raise DivergedError(
                f"stage {self._stage.name!r}: {skips} steps in a row were skipped as "
                f"loss or gradient was not finite or jumped; at step {pending.step}: "
                f"{values}, records: {ids}. Look at these records, or lower "
                "optimizer.learning_rate; guard.limit and guard.spike_factor set "
                f"what is tolerated. {self._saves.advice()}"
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
