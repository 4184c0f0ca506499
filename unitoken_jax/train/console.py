"""Where log lines go: the console, beside a progress bar, and a stage's `log.txt`."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import absl.logging
from tqdm import tqdm

_LOGGERS = ("unitoken_jax", "data_pipelines")


class _Console(logging.Handler):
    """Prints above a progress bar; leaves out what is for the file only."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        warns = record.levelno >= logging.WARNING
        prefix = f"{record.levelname.lower()}: " if warns else ""
        # A terminal that was closed must not end a run, which may be about to save.
        with contextlib.suppress(OSError):
            tqdm.write(prefix + record.getMessage(), file=sys.stdout)
            sys.stdout.flush()


@contextmanager
def log_to_console(*, warnings_only: bool = False) -> Iterator[None]:
    """Print the project's log lines while the context lasts.

    Of the libraries (Orbax, Grain) only warnings are printed.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    with _attached(_Console(logging.WARNING if warnings_only else logging.INFO)):
        yield


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the project's log lines, with time and level, to `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with closing(handler), _attached(handler):
        yield


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
