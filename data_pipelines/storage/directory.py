"""Directories that are there whole or not at all.

Work is written under a temporary name beside its destination and renamed at the end.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import DataError


class DirectoryError(DataError):
    """A destination cannot be written; the message says why and what to do."""


@contextmanager
def atomic_directory(
    destination: Path, *, overwrite: bool, mark: str | None = None
) -> Iterator[Path]:
    """Gives an empty directory that becomes `destination` when the block ends well.

    If the block raises, everything written is removed and an old `destination` stays
    as it was. What a killed run left under the temporary name is removed by the next.

    Args:
        destination: To be made; a link is followed.
        overwrite: Replace what stands there; an empty directory always is.
        mark: A file without which an old directory is not replaced, as it would be
            something else.

    Raises:
        DirectoryError: `destination` exists and may not be replaced, another process
            is writing it, or it cannot be written, as on a full disk.
    """
    missing: list[Path] = []
    try:
        destination = destination.resolve()
        partial = destination.parent / f".{destination.name}.partial"
        missing = [parent for parent in destination.parents if not parent.exists()]
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        _remove_empty(missing)
        raise DirectoryError(f"{destination} cannot be written: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DirectoryError(
                f"{destination} is being written by another process ({partial} is "
                "locked); wait for it to end"
            ) from error
        try:
            _restore(destination)
            _check_replaceable(destination, overwrite=overwrite, mark=mark)
            _empty(partial)
            yield partial
            _publish(partial, destination)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            _remove_empty(missing)
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise DirectoryError(
                    f"{destination} could not be written: {error.strerror}; nothing "
                    "was left behind. Free some space or choose another disk"
                ) from error
            raise
    finally:
        os.close(lock)


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _check_replaceable(destination: Path, *, overwrite: bool, mark: str | None) -> None:
    if not destination.exists():
        return
    if not destination.is_dir():
        raise DirectoryError(
            f"{destination} is a file; give another output directory, or remove it"
        )
    if not any(destination.iterdir()):
        return
    if not overwrite:
        raise DirectoryError(
            f"{destination} exists already; give --overwrite to replace it, "
            "or another output directory"
        )
    if mark is not None and not (destination / mark).exists():
        raise DirectoryError(
            f"{destination} holds no {mark}, so it is something else than what is to "
            "be made, and is not replaced; give another output directory"
        )


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _remove_empty(directories: list[Path]) -> None:
    """Removes parents that were made for nothing, the innermost first."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _old(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.old")


def _restore(destination: Path) -> None:
    """Puts back what a run had moved aside that was killed while it published."""
    if not destination.exists() and _old(destination).exists():
        _old(destination).rename(destination)


def _publish(partial: Path, destination: Path) -> None:
    """Puts `partial` in the place of `destination`, which is kept until it is done."""
    if not destination.exists():
        partial.rename(destination)
        return
    old = _old(destination)
    shutil.rmtree(old, ignore_errors=True)
    destination.rename(old)
    try:
        partial.rename(destination)
    except OSError:
        old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)
