"""A thread that notices when no step ends, and shows what every thread is doing."""

import dataclasses
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from unitoken_jax.config import Bounds

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for writing the stacks down, before the process ends anyway
_ERRORS = 2  # the standard error output


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """After `seconds` without a step (0: never) the stacks are written down.

    With `end` the process also ends, so that whatever started it can start it again.
    """

    seconds: Annotated[float, Bounds(0, most=1e9)] = 900.0
    end: bool = False

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError(f"seconds must be 0 or more, not {self.seconds}.")


class Watchdog:
    """Watches over a loop that calls `beat` after every step, unless `suspended`.

    It reports once for every silence: a sentence to the log and the stacks of all
    threads to `path`. If it ends the process, both go to the standard error output
    first, and no disk that hangs keeps it.
    """

    def __init__(self, config: WatchdogConfig, path: Path, step: int) -> None:
        """Prepare to watch from `step` on; entering the context starts it."""
        self._config, self._path = config, path
        self._step, self._beaten, self._reported = step, time.monotonic(), False
        self._suspended = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog")
        self._thread.daemon = True

    def beat(self, step: int) -> None:
        """Say that `step` has ended."""
        self._step, self._beaten, self._reported = step, time.monotonic(), False

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Watch over nothing while the context lasts: what is done may take long."""
        self._suspended = True
        try:
            yield
        finally:
            self.beat(self._step)
            self._suspended = False

    def __enter__(self) -> "Watchdog":
        if self._config.seconds:
            self.beat(self._step)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)  # a disk that hangs may hold it for ever

    def _watch(self) -> None:
        limit = self._config.seconds
        while not self._done.wait(min(limit / 4, 10.0)):
            silence = time.monotonic() - self._beaten
            if silence > limit and not (self._reported or self._suspended):
                self._reported = True
                self._report(silence)

    def _report(self, silence: float) -> None:
        silent = (
            f"no step has ended for {silence:.0f} s, the last was step {self._step}"
        )
        if self._config.end:
            _end_soon()
            print(
                f"error: {silent}. watchdog.end is set: the same command resumes.",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(_ERRORS, all_threads=True)
        try:
            with self._path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"what every thread is doing stands in {self._path}"
        except OSError as error:
            where = f"the threads could not be written down ({error.strerror})"
        log.error("%s; %s.", silent, where)
        if self._config.end:
            os._exit(1)


def _end_soon() -> None:
    """End the process in a while, whatever holds up those who write until then.

    faulthandler's timer waits for no disk and, unlike a thread of Python's, not for the
    interpreter's lock either, which a blocked writer may hold.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    faulthandler.dump_traceback_later(_PATIENCE, exit=True, file=nowhere)
