"""TensorBoard's event files, written by whole records."""

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unitoken_jax.runtime.outlet import AppendedFile


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Let none of these packages be imported while the context lasts."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


# It imports whatever of these is installed, and what is used of it here needs none.
with _absent("torch", "boto3", "comet_ml", "google.cloud.storage"):
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

Event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
SessionLog: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
_VERSION = "brain.Event:2"


class Board:
    """The event file of one start of a stage; its methods may raise OSError.

    Points of earlier starts beyond step `start`, from where this one goes on, are
    hidden: they are of steps that are done again.
    """

    def __init__(self, directory: Path, start: int) -> None:
        self._start = start
        self._file = AppendedFile(_fresh(directory), head=self._head, lines=False)

    def scalars(self, step: int, values: Mapping[str, float], when: float) -> None:
        """Write values by name, as of `when` in seconds since the epoch."""
        parts = [summary.scalar(name, value) for name, value in values.items()]
        self._file.append(b"".join(_record(part, step, when) for part in parts))
        self._file.sync(every=10.0)

    def image(self, step: int, name: str, picture: np.ndarray, when: float) -> None:
        """Write a picture, uint8 [H, W, 3]."""
        part = summary.image(name, picture, dataformats="HWC")
        self._file.append(_record(part, step, when))

    def close(self) -> None:
        """Let go of the file."""
        self._file.sync()
        self._file.close()

    def _head(self) -> bytes:
        """Return what a file begins with: TensorBoard drops what it says is undone."""
        now = time.time()
        undone = self._start + 1
        start = SessionLog(status=SessionLog.START)
        version = Event(wall_time=now, file_version=_VERSION)
        session = Event(wall_time=now, step=undone, session_log=start)
        return _frame(version) + _frame(session)


def _record(part: Any, step: int, when: float) -> bytes:
    return _frame(Event(summary=part, step=step, wall_time=when))


def _frame(event: Any) -> bytes:
    """Return an event as it stands in a file, with its length and checksums."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + sums[0] + data + sums[1]


def _fresh(directory: Path) -> Path:
    """Return a path for the events of a new start.

    TensorBoard reads files in the order of their names, so it comes behind all others,
    also behind those of machines whose clocks are ahead.
    """
    stamps = [int(time.time())]
    with contextlib.suppress(OSError):
        for path in directory.glob("events.out.tfevents.*"):
            stamp = path.name.split(".")[3]
            if stamp.isdecimal() and len(stamp) <= 10:
                stamps.append(int(stamp) + 1)
    name = (
        f"events.out.tfevents.{max(stamps):010d}.{socket.gethostname()}.{os.getpid()}"
    )
    return directory / name
