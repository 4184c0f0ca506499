"""Running the tasks of a sweep: in order, several at once, again after failures.

What is done is read from the runs' own files, so the same command resumes a sweep that
was interrupted anywhere. `sweep.json` says how each run stands; the report reads it.
A run outlives a sweep command that is killed until it has saved, or for ever where the
system cannot tell it: it keeps its log locked, and the next command waits for it, for
two in one directory would spoil each other's checkpoints.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from launch import gke, local, signals, slurm, tpu_vm
from launch.signals import PREEMPTED
from launch.sweep import refusals
from launch.sweep.config import Point, SweepConfig
from launch.sweep.tasks import Task
from unitoken_jax.config import plain
from unitoken_jax.errors import REFUSED, ConfigError, UserError, nearest
from unitoken_jax.files import write_text

log = logging.getLogger("launch.sweep")

STATE = "sweep.json"
_PREEMPTIONS = 100  # of one task, before its ending early counts as a failure
_POLL = 0.2  # seconds between looks at the processes

_LAUNCHERS = {
    "gke": gke.run,
    "local": local.run,
    "slurm": slurm.run,
    "tpu_vm": tpu_vm.run,
}

Command = Callable[[Task], Sequence[str]]


def train_here(task: Task) -> list[str]:
    """Return the command that runs a task in a process of this machine."""
    return [sys.executable, "-m", "unitoken_jax.train", *task.arguments]


def places(via: Sequence[str], parallel: int | None) -> list[Command]:
    """Return what runs tasks, one at a time each.

    Args:
        via: launchers and their options, of which none is used twice at a time; if it
            is one, as often as `parallel` says, unless there is only one of what it
            uses.
        parallel: tasks at a time; None is one by each launcher.

    Raises:
        ConfigError: there is no such launcher, or two runs would be in one place.
    """
    count = max(len(via), 1) if parallel is None else parallel
    if not via:
        return [train_here] * count
    alone: dict[str, str] = {}
    for words in via:
        place = _place(words)
        if place in alone:
            raise ConfigError(f"--via {words!r}: another --via has {place} as well.")
        alone |= {place: words} if place else {}
    if count > len(via) > 1:
        raise ConfigError(
            f"--parallel={count}, but {len(via)} launchers are named by --via, which "
            "run one at a time each."
        )
    if count > 1 and alone and len(via) == 1:
        raise ConfigError(
            f"--parallel={count} would run {count} at a time on {next(iter(alone))}: "
            "give one --via for each that there is, or leave --parallel out."
        )
    commands = [launcher(words) for words in via]
    return commands * count if len(via) == 1 else commands[:count]


def _place(words: str) -> str:
    """Name what only one run at a time can use, '' if the launcher finds its own."""
    module, options = _split(words)
    find = {"tpu_vm": tpu_vm.slice_of, "local": local.port_of}.get(module)
    if find is None:
        return ""
    try:
        return find([*options, "--", "RUN"])
    except UserError as error:
        raise ConfigError(f"--via {words!r}: {error}") from error


def launcher(words: str) -> Command:
    """Return what wraps tasks in a launcher, which waits until they have ended.

    Args:
        words: a module of `launch` and its options: 'slurm --nodes 2'.

    Raises:
        ConfigError: there is no such launcher.
    """
    module, options = _split(words)

    def command(task: Task) -> list[str]:
        start = [sys.executable, "-m", f"launch.{module}", *options]
        return [*start, "--name", task.name, "--wait", "--", *task.arguments]

    return command


def check_launcher(words: str, tasks: Sequence[Task]) -> None:
    """Refuse options that a launcher does not take.

    Args:
        words: as those of `launcher`.
        tasks: that it will run.

    Raises:
        ConfigError: in the words of the launcher.
    """
    module, options = _split(words)
    if module == "gke":
        _check_names([task.name for task in tasks])
    for task in tasks:
        run = ["--dry_run", "--name", task.name, "--wait", "--", *task.arguments]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                _LAUNCHERS[module]([*options, *run])
        except UserError as error:
            raise ConfigError(f"--via {words!r}: {error}") from error


def _check_names(names: Sequence[str]) -> None:
    """Refuse tasks that Kubernetes cannot tell apart: one would delete the other."""
    known: dict[str, str] = {}
    for name in names:
        cleaned = gke.clean(name)
        if cleaned in known:
            raise ConfigError(
                f"{known[cleaned]!r} and {name!r} are both {cleaned!r} to Kubernetes; "
                "change a label."
            )
        known[cleaned] = name


def _split(words: str) -> tuple[str, list[str]]:
    """Return the launcher and its options."""
    try:
        module, *options = shlex.split(words)
    except ValueError as error:
        raise ConfigError(
            f"--via {words!r} names no launcher, or a quote is not closed: write it "
            "as 'slurm --nodes 2'."
        ) from error
    if module not in _LAUNCHERS:
        raise ConfigError(
            f"--via {words!r}: no launcher {module!r}{nearest(module, _LAUNCHERS)}"
        )
    return module, options


@dataclasses.dataclass
class Progress:
    """How a task stands, after all commands that ran the sweep.

    Attributes:
        status: 'waiting', 'running', 'done', 'failed', 'blocked' by a failed one, or
            'refused' before it was run.
        failures: processes that ended with a fault.
        preemptions: processes that ended early and well.
        seconds: spent by its processes.
        error: the last fault, in a sentence.
    """

    status: str = "waiting"
    failures: int = 0
    preemptions: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class _Running:
    """A process of a task.

    Attributes:
        task: that it runs.
        process: itself.
        began: when, on the monotonic clock.
        output: where its own part of the log begins, in bytes.
        saved: what the run had saved before.
        place: number of the command that runs it.
    """

    task: Task
    process: subprocess.Popen[bytes]
    began: float
    output: int
    saved: set[tuple[str, int]]
    place: int


class Runner:
    """The tasks of one sweep."""

    def __init__(
        self,
        sweep: SweepConfig,
        tasks: Sequence[Task],
        folder: Path,
        *,
        everything: Sequence[Task] | None = None,
        refused: Mapping[str, tuple[Point, str]] | None = None,
        command: Command | Sequence[Command] = train_here,
        parallel: int = 1,
        retries: int = 1,
    ) -> None:
        """Look at what is done already; share what only now has become common.

        Args:
            sweep: what is run.
            tasks: each after those that it needs.
            folder: of the sweep.
            everything: tasks of the whole sweep, of which those that are not run are
                written as they stand; None is `tasks`.
            refused: points that are set aside, and why, by their names.
            command: that runs a task; it must end when the task has ended. Several run
                one task at a time each.
            parallel: tasks at a time, if it is one command.
            retries: how often a failed task is run again.
        """
        self._sweep, self._tasks, self._folder = sweep, tasks, folder
        self._refused = dict(refused or {})
        self._commands = [command] * parallel if callable(command) else list(command)
        self._retries = retries
        self._running: list[_Running] = []
        self._stopping = False
        self._awaited: set[str] = set()
        self._everything = tasks if everything is None else everything
        self._share()
        before = _read(folder / STATE).get("tasks", {})
        self._stand = {
            task.name: _restore(task, before.get(task.name, {}), folder)
            for task in self._everything
        }
        self.progress = {task.name: self._stand[task.name] for task in tasks}
        for progress in self.progress.values():
            if progress.status != "done":
                progress.status = "waiting"
        # The limits of this command count from here.
        self._earlier = {n: dataclasses.replace(p) for n, p in self.progress.items()}

    def run(self) -> bool:
        """Run what is not done; return whether everything is.

        SIGTERM, Ctrl-C and the end of the terminal are passed on to the tasks, which
        save and end.
        """
        with signals.passed_on(self._stop):
            self._write()
            while not self._stopping and (self._start() or self._running):
                self._look()
                time.sleep(_POLL)
            while self._running:
                self._look()
                time.sleep(_POLL)
        self._write()
        return all(progress.status == "done" for progress in self.progress.values())

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end."""
        return self._stopping

    def _share(self) -> None:
        """Share what points trained alone, of those that are done first."""
        for task in sorted(self._everything, key=lambda task: not task.is_done()):
            if task.unshared:
                with self._open_log(task) as file:
                    if _lock(file):  # no run of an earlier command is at it
                        task.share()

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
            room = len(self._running) < len(self._commands)
            if room and all(s == "done" for s in needed) and self._may_code(task):
                started = True
                self._launch(task)
        return started

    def _may_code(self, task: Task) -> bool:
        """Say whether the task can have its image codes; one task makes them."""
        if task.codes is None or any(task.codes.glob("*/manifest.json")):
            return True
        return all(running.task.codes != task.codes for running in self._running)

    def _open_log(self, task: Task) -> IO[bytes]:
        path = self._folder / "logs" / f"{task.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")

    def _launch(self, task: Task) -> None:
        with self._open_log(task) as file:
            if not self._take(task, file):
                return
            task.prepare()
            saved = _saved(task)
            taken = {running.place for running in self._running}
            place = next(n for n in range(len(self._commands)) if n not in taken)
            command = self._commands[place](task)
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            output = file.tell()
            process = signals.start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        self.progress[task.name].status = "running"
        began = time.monotonic()
        self._running.append(_Running(task, process, began, output, saved, place))
        if self._stopping:  # asked before this one could be told
            process.terminate()
        log.info("%s %s: started", self._count(), task.name)
        self._write()

    def _take(self, task: Task, file: IO[bytes]) -> bool:
        """Lock a task's log; say whether the task is to be started."""
        if not _lock(file):
            if task.name not in self._awaited:
                self._awaited.add(task.name)
                log.info(
                    "%s %s: is still run by an earlier command, which is waited for",
                    *(self._count(), task.name),
                )
            return False
        if task.name in self._awaited and task.is_done():
            progress = self.progress[task.name]
            progress.status, progress.error = "done", ""
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
                words = self._judge(running, progress, code)
            log.info("%s %s: %s", self._count(), task.name, words)
            self._write()

    def _judge(self, running: _Running, progress: Progress, code: int) -> str:
        """Decide what becomes of a task whose process ended before it was done."""
        progress.status = "waiting"
        if self._stopping:
            return "stopped; the same command goes on with it"
        task, earlier = running.task, self._earlier[running.task.name]
        if code not in (0, PREEMPTED):
            progress.error = self._fault(running, code)
        elif code == 0 and _saved(task) == running.saved:
            progress.error = (
                f"it ended well, but {task.workdir} shows nothing new; is it shared "
                "with this machine?"
            )
        elif progress.preemptions - earlier.preemptions == _PREEMPTIONS:
            progress.error = f"it has ended early {_PREEMPTIONS} times before."
        else:
            progress.preemptions += 1
            return "ended early, which is no failure; it is resumed"
        progress.failures += 1
        if code == REFUSED:
            progress.status = "failed"
            return f"refused: {progress.error}"
        if progress.failures - earlier.failures <= self._retries:
            return f"failed ({progress.error}) and is tried again"
        progress.status = "failed"
        return f"failed: {progress.error}"

    def _fault(self, running: _Running, code: int) -> str:
        """Return the last line of a process' output, where a fault is a sentence."""
        output = self._output(running)
        lines = output.splitlines()
        last = refusals.sentence(output) or (lines[-1] if lines else "no output")
        return last if code >= 0 else f"signal {-code}; {last}"

    def _output(self, running: _Running) -> str:
        path = self._folder / "logs" / f"{running.task.name}.log"
        output = path.read_bytes()[running.output :].decode(errors="replace")
        return output.replace("\r", "\n")

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
                task.name: dataclasses.asdict(self._stand[task.name])
                | _description(task, self._folder)
                for task in self._everything
            }
            | {
                name: dataclasses.asdict(Progress("refused", error=why))
                | _about(point, f"points/{name}", ())
                for name, (point, why) in self._refused.items()
            },
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(self._folder / STATE, json.dumps(content, indent=1))


def _restore(task: Task, before: Mapping[str, Any], folder: Path) -> Progress:
    """Return how a task stands, which an earlier command has written of.

    A task of another config is another one: its run is in a directory of its own.
    """
    progress = Progress()
    if before.get("run") == _description(task, folder)["run"]:
        names = [field.name for field in dataclasses.fields(Progress)]
        progress = Progress(**{name: before[name] for name in names if name in before})
    if task.is_done():
        progress.status, progress.error = "done", ""
    elif progress.status not in ("failed", "blocked"):
        progress.status = "waiting"
    return progress


def _lock(file: IO[bytes]) -> bool:
    """Lock a file for whoever has it open, unless another has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _saved(task: Task) -> set[tuple[str, int]]:
    """Return what tells whether a run has got on: its checkpoints and complete stages.

    Each with the time of its last change.
    """
    patterns = ("*/checkpoints/*", "*/finished.json")
    found = [path for pattern in patterns for path in task.workdir.glob(pattern)]
    return {(str(path), path.stat().st_mtime_ns) for path in found}


def _description(task: Task, folder: Path) -> dict[str, object]:
    run = str(task.workdir.relative_to(folder))
    return _about(task.point, run, task.arguments)


def _about(
    point: Point | None, run: str, arguments: Sequence[str]
) -> dict[str, object]:
    return {
        "run": run,
        "labels": dict(point.labels) if point else None,
        "seed": point.seed if point else None,
        "arguments": list(arguments),
    }


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
