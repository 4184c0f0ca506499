"""Where log lines go: the console, beside a progress bar, and a stage's `log.txt`.

Neither holds anyone up: they are written by threads of their own, see `outlet`.
"""

import contextlib
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

import absl.logging
from tqdm import tqdm

from unitoken_jax.runtime.outlet import AppendedFile, Outlet

_LOGGERS = ("unitoken_jax", "data_pipelines")
_PATIENCE = 0.5  # seconds that a warning may take, as the process may be about to end


class _Handler(logging.Handler):
    """Hands lines over to an outlet."""

    outlet: Outlet

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written; for a warning, wait a little until it is."""
        try:
            write = self.writing(record)
        except Exception:  # a record whose arguments do not fit its words
            self.handleError(record)
            return
        if write is not None:
            self.outlet.put(write)
            if record.levelno >= logging.WARNING:
                self.outlet.settle(_PATIENCE)

    def writing(self, record: logging.LogRecord) -> Callable[[], object] | None:
        """Return what writes a record, None for one that is not to be written."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what waits, as far as that can be."""
        self.outlet.close()
        super().close()


class _Console(_Handler):
    """Prints above a progress bar; leaves out what is for the file only."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._stream = sys.stdout
        # A terminal that was closed must not end a run, which may be about to save.
        self.outlet = Outlet("the console", again=False, quiet=True)

    def writing(self, record: logging.LogRecord) -> Callable[[], object] | None:
        """Return what prints a record, unless it is for the file only."""
        if getattr(record, "file_only", False):
            return None
        warns = record.levelno >= logging.WARNING
        prefix = f"{record.levelname.lower()}: " if warns else ""
        line = f"{prefix}{record.getMessage()}\n"
        return lambda: _print(line, self._stream)


class _File(_Handler):
    """Appends lines with time and level to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._file = AppendedFile(path)
        self.outlet = Outlet(str(path), end=self._file.close)

    def writing(self, record: logging.LogRecord) -> Callable[[], object] | None:
        """Return what appends a record."""
        if getattr(record, "console_only", False):
            return None
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        return lambda: self._file.append(line)


def _print(line: str, stream: TextIO) -> None:
    """Write a line above the bars."""
    with tqdm.external_write_mode(file=stream):
        try:
            descriptor = stream.fileno()
        except (OSError, AttributeError):  # a notebook's, or none
            stream.write(line)
            stream.flush()
            return
        # Not through the stream: a thread that waits in there would keep the process
        # from ending.
        encoding = stream.encoding or "utf-8"
        data = memoryview(line.encode(encoding, errors="backslashreplace"))
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                select.select([], [descriptor], [])


@contextmanager
def log_to_console(*, warnings_only: bool = False) -> Iterator[None]:
    """Print the project's log lines while the context lasts.

    Of the libraries (Orbax, Grain) only warnings are printed.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # what was printed before comes before
    handler = _Console(logging.WARNING if warnings_only else logging.INFO)
    with closing(handler), _attached(handler):
        yield


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the project's log lines, with time and level, to `path`."""
    handler = _File(path)
    with closing(handler), _attached(handler):
        yield


class _Early(logging.Handler):
    """Holds records for a file that there is not yet."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def held_for_file() -> Iterator[Callable[[], None]]:
    """Hold the project's log lines till there is a file for them.

    Yields:
        What writes them to the files that `log_to_file` has opened since, and holds no
        more.
    """
    handler = _Early()

    def release() -> None:
        held, handler.records = handler.records, []
        handler.setLevel(logging.CRITICAL + 1)
        for record in held:
            record.file_only = True  # the console has had it
            logging.getLogger(record.name).handle(record)

    with _attached(handler):
        yield release


@contextmanager
def _attached(handler: logging.Handler) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # absl's own handler would print it again
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
