"""Running the tasks of a sweep: in order, several at once, again after failures.

What is done is read from the runs' own files, so the same command resumes a sweep that
was interrupted anywhere. `sweep.json` says how each run stands; the report reads it.
A run outlives a sweep command that is killed: it keeps its log locked, and the next
command waits for it, for two in one directory would spoil each other's checkpoints.
"""

import dataclasses
import fcntl
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from launch.signals import PREEMPTED
from launch.sweep.config import SweepConfig
from launch.sweep.tasks import Task
from unitoken_jax.config import plain

log = logging.getLogger("launch.sweep")

STATE = "sweep.json"
_PREEMPTIONS = 100  # of one task, before its ending early counts as a failure
_POLL = 0.2  # seconds between looks at the processes

Command = Callable[[Task], Sequence[str]]


def train_here(task: Task) -> list[str]:
    """Return the command that runs a task in a process of this machine."""
    return [sys.executable, "-m", "unitoken_jax.train", *task.arguments]


def launcher(words: str) -> Command:
    """Return what wraps tasks in a launcher, which waits until they have ended.

    Args:
        words: a module of `launch` and its options: 'slurm --nodes 2'.
    """
    module, *options = shlex.split(words)

    def command(task: Task) -> list[str]:
        start = [sys.executable, "-m", f"launch.{module}", *options]
        return [*start, "--name", task.name, "--wait", "--", *task.arguments]

    return command


@dataclasses.dataclass
class Progress:
    """How a task stands.

    Attributes:
        status: 'waiting', 'running', 'done', 'failed', or 'blocked' by a failed one.
        failures: processes that ended with a fault.
        preemptions: processes that ended early and well.
        seconds: spent by its processes in this sweep command.
        error: the last fault, in a sentence.
    """

    status: str = "waiting"
    failures: int = 0
    preemptions: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class _Running:
    task: Task
    process: subprocess.Popen[bytes]
    began: float


class Runner:
    """The tasks of one sweep."""

    def __init__(
        self,
        sweep: SweepConfig,
        tasks: Sequence[Task],
        folder: Path,
        *,
        command: Command = train_here,
        parallel: int = 1,
        retries: int = 1,
    ) -> None:
        """Look at what is done already.

        Args:
            sweep: what is run.
            tasks: each after those that it needs.
            folder: of the sweep.
            command: that runs a task; it must end when the task has ended.
            parallel: tasks at a time.
            retries: how often a failed task is run again.
        """
        self._sweep, self._tasks, self._folder = sweep, tasks, folder
        self._command, self._parallel, self._retries = command, parallel, retries
        self._running: list[_Running] = []
        self._stopping = False
        self._awaited: set[str] = set()
        self.progress: dict[str, Progress] = {}
        before = _read(folder / STATE).get("tasks", {})
        for task in tasks:
            progress = Progress(status="done" if task.is_done() else "waiting")
            progress.seconds = before.get(task.name, {}).get("seconds", 0.0)
            self.progress[task.name] = progress

    def run(self) -> bool:
        """Run what is not done; return whether everything is.

        SIGTERM and Ctrl-C are passed on to the tasks, which save and end.
        """
        handlers = {
            number: signal.signal(number, self._stop)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            self._write()
            while not self._stopping and (self._start() or self._running):
                self._look()
                time.sleep(_POLL)
            while self._running:
                self._look()
                time.sleep(_POLL)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._write()
        return all(progress.status == "done" for progress in self.progress.values())

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end."""
        return self._stopping

    def _start(self) -> bool:
        """Start what can run now; return whether that, or a wait, changes anything."""
        started = False
        for task in self._tasks:
            progress = self.progress[task.name]
            if progress.status != "waiting":
                continue
            needed = [self.progress[name].status for name in task.needs]
            if any(status in ("failed", "blocked") for status in needed):
                progress.status, started = "blocked", True
                progress.error = "a stage that it starts from has failed."
                self._write()
                continue
            room = len(self._running) < self._parallel
            if room and all(s == "done" for s in needed) and self._may_code(task):
                started = True
                self._launch(task)
        return started

    def _may_code(self, task: Task) -> bool:
        """Say whether the task can have its image codes; one task makes them."""
        if task.codes is None or any(task.codes.glob("*/manifest.json")):
            return True
        return all(running.task.codes != task.codes for running in self._running)

    def _launch(self, task: Task) -> None:
        path = self._folder / "logs" / f"{task.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if not self._lock(task, file):
                return
            task.prepare()
            command = self._command(task)
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            # A session of its own: a Ctrl-C reaches it once, through `_stop`.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        self.progress[task.name].status = "running"
        self._running.append(_Running(task, process, time.monotonic()))
        log.info("%s %s: started", self._count(), task.name)
        self._write()

    def _lock(self, task: Task, file: IO[bytes]) -> bool:
        """Lock a log for whoever has it open; say whether the task is to be started."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if task.name not in self._awaited:
                self._awaited.add(task.name)
                log.info(
                    "%s %s: is still run by an earlier command, which is waited for",
                    *(self._count(), task.name),
                )
            return False
        if task.name in self._awaited and task.is_done():
            self.progress[task.name].status = "done"
            log.info("%s %s: done by an earlier command", self._count(), task.name)
            self._write()
            return False
        return True

    def _look(self) -> None:
        """Judge the processes that have ended."""
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            task, progress = running.task, self.progress[running.task.name]
            progress.seconds += time.monotonic() - running.began
            if code == 0 and task.is_done():
                progress.status, progress.error = "done", ""
                words = f"done after {progress.seconds:.0f} s"
            else:
                words = self._judge(task, progress, code)
            log.info("%s %s: %s", self._count(), task.name, words)
            self._write()

    def _judge(self, task: Task, progress: Progress, code: int) -> str:
        """Decide what becomes of a task whose process ended before it was done."""
        progress.status = "waiting"
        if self._stopping:
            return "stopped; the same command goes on with it"
        if code in (0, PREEMPTED) and progress.preemptions < _PREEMPTIONS:
            progress.preemptions += 1
            return "ended early, which is no failure; it is resumed"
        progress.failures += 1
        progress.error = self._fault(task, code)
        if progress.failures <= self._retries:
            return f"failed ({progress.error}) and is tried again"
        progress.status = "failed"
        return f"failed: {progress.error}"

    def _fault(self, task: Task, code: int) -> str:
        """Return the last line of a task's log, where a fault is a sentence."""
        path = self._folder / "logs" / f"{task.name}.log"
        lines = path.read_text(errors="replace").replace("\r", "\n").splitlines()
        spoken = [line for line in lines if line.startswith("error: ")] or lines[1:]
        last = spoken[-1].removeprefix("error: ") if spoken else "no output"
        return last if code > 0 else f"signal {-code}; {last}"

    def _count(self) -> str:
        done = sum(p.status == "done" for p in self.progress.values())
        return f"[{done}/{len(self._tasks)}]"

    def _stop(self, *_: object) -> None:
        self._stopping = True
        for running in self._running:
            running.process.terminate()

    def _write(self) -> None:
        """Write how everything stands."""
        content = {
            "name": self._sweep.name,
            "title": self._sweep.title or self._sweep.name,
            "config": self._sweep.config,
            "axes": [
                {"name": axis.name, "labels": [value.label for value in axis.values]}
                for axis in self._sweep.axes
            ],
            "page": plain(self._sweep.page),
            "tasks": {
                task.name: dataclasses.asdict(self.progress[task.name])
                | _description(task, self._folder)
                for task in self._tasks
            },
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{STATE}.partial"
        partial.write_text(json.dumps(content, indent=1))
        os.replace(partial, self._folder / STATE)


def _description(task: Task, folder: Path) -> dict[str, Any]:
    point = task.point
    return {
        "run": str(task.workdir.relative_to(folder)),
        "labels": dict(point.labels) if point else None,
        "seed": point.seed if point else None,
        "arguments": list(task.arguments),
    }


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
