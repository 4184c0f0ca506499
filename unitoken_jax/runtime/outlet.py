"""Writes that may fail, or never end, without anyone being stopped by it.

Metrics, TensorBoard, logs, pictures and the flight recorder each have an `Outlet`, a
thread of its own behind a bounded queue: a full disk, a file that was removed or a
server that hangs costs lines, never a step. `AppendedFile` is what most of them write:
it holds whole records only, and goes on when it can.
"""

import contextlib
import logging
import os
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_AGAIN = 1.0  # seconds until a write that failed is tried again
_PATIENCE = 5.0  # seconds without a write that ends, after which nobody waits
_outlets: "weakref.WeakSet[Outlet]" = weakref.WeakSet()


class Outlet:
    """Does what it is given, in its order, in a thread of its own; a context.

    What fails for the file system's reasons is tried again until there is space, as
    long as the queue holds what comes after it. The first fault is a warning, the
    number of dropped writes another at the end.
    """

    def __init__(
        self,
        name: str,
        *,
        waiting: int = 1000,
        again: bool = True,
        quiet: bool = False,
        end: Callable[[], object] = bool,
    ) -> None:
        """Prepare; the thread starts with the first write.

        Args:
            name: what is written, for messages.
            waiting: writes that may wait; what comes when they do is dropped.
            again: whether a write that failed is tried again. Not for writes that hold
                much memory.
            quiet: whether dropped writes matter so little that nobody is told.
            end: closes the file, in the same thread: nobody else may while it writes.
        """
        self.name = name
        self.dropped = 0
        self._limit, self._again, self._quiet = waiting, again, quiet
        self._end = end
        self._waiting: deque[Callable[[], object]] = deque()  # the first is being done
        self._changed = threading.Condition()
        self._closing = self._warned = self._fails = self._hangs = False
        self._done = 0
        self._thread: threading.Thread | None = None
        if not quiet:
            _outlets.add(self)

    def put(self, write: Callable[[], object]) -> bool:
        """Have something written soon; return whether it waits, or is dropped."""
        with self._changed:
            taken = len(self._waiting) < self._limit and not self._closing
            if taken:
                self._waiting.append(write)
                self._changed.notify_all()
            else:
                self.dropped += 1
            if self._thread is None and taken:
                self._thread = threading.Thread(
                    target=self._work, name=self.name, daemon=True
                )
                self._thread.start()
        if not taken:
            self._warn("it takes too long")
        return taken

    def settle(self, seconds: float) -> bool:
        """Wait until everything is written, so long at most; return whether it is.

        Nobody waits for an outlet that has failed or kept someone waiting before, until
        it writes again.
        """
        if threading.current_thread() is self._thread:
            return False
        with self._changed:
            if not (self._fails or self._hangs):
                self._changed.wait_for(lambda: not self._waiting, seconds)
            self._hangs = bool(self._waiting)
            return not self._waiting

    def close(self) -> None:
        """Write what waits, as long as that gets on, and say what was dropped."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
            moves = True
            while self._waiting and moves:
                done = self._done
                moves = self._changed.wait_for(
                    lambda done=done: self._done > done, _PATIENCE
                )
            self.dropped += len(self._waiting)
            self._waiting.clear()
        if self._thread is not None and moves:  # else it ends with the process
            self._thread.join(_PATIENCE)
        _outlets.discard(self)
        if self.dropped and not self._quiet:
            log.warning("writes to %s that were dropped: %d", self.name, self.dropped)

    def __enter__(self) -> "Outlet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (write := self._next()) is not None:
            fault = None
            try:
                write()
            except Exception as error:  # whatever it is, it ends nothing
                fault = error
            if fault is not None:
                self._warn(getattr(fault, "strerror", None) or str(fault))
            with self._changed:
                self._fails = fault is not None
                if isinstance(fault, OSError) and self._again and not self._closing:
                    self._changed.wait_for(lambda: self._closing, _AGAIN)
                    continue
                self._hangs = False
                self._done += 1
                if self._waiting and self._waiting[0] is write:  # or it was given up
                    self._waiting.popleft()
                    self.dropped += fault is not None
                self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._end()

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting[0] if self._waiting else None

    def _warn(self, reason: str) -> None:
        if not (self._warned or self._quiet):
            self._warned = True
            log.warning(
                "%s cannot be written: %s. The run goes on; what waits for too long "
                "is dropped.",
                *(self.name, reason),
            )


def dropped() -> int:
    """Return how many writes the open outlets of this process have dropped so far."""
    return sum(outlet.dropped for outlet in list(_outlets))


def content(path: Path, most: int = -1) -> bytes:
    """Return what an output holds, or its first bytes; nothing if it cannot be read.

    What is no file (a pipe, a device) is not read: that might never end.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(most)
    except OSError:
        pass
    return b""


class AppendedFile:
    """A file that grows by whole records; one that cannot be written leaves nothing.

    It is opened with the first record, and made again, with its folder, if someone
    removed it.
    """

    def __init__(
        self, path: Path, *, head: Callable[[], bytes] = bytes, lines: bool = True
    ) -> None:
        """Prepare to append to `path`.

        Args:
            path: of the file.
            head: gives what comes before the first record of each opening.
            lines: whether records are lines; half a one that a crash has left is ended.
        """
        self.path = path
        self._head, self._lines = head, lines
        self._file: int | None = None
        self._torn: int | None = None  # where half a record begins
        self._joined = False  # whether a record was written since it was opened
        self._synced = time.monotonic()

    def append(self, record: bytes) -> None:
        """Write a record behind all others.

        Raises:
            OSError: it cannot be written; nothing of it is in the file.
        """
        if self._file is None or not self._is_there(self._file):
            self._open()
        file = self._file
        assert file is not None
        self._mend(file)
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode):
            record = self._before(status.st_size) + record
            self._torn = status.st_size
        view = memoryview(record)
        try:
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            with contextlib.suppress(OSError):  # or before the next record
                self._mend(file)
            raise
        self._torn, self._joined = None, True

    def sync(self, every: float = 0.0) -> None:
        """Bring the records to the disk, unless that was less than `every` s ago."""
        if self._file is None or time.monotonic() - self._synced < every:
            return
        if stat.S_ISREG(os.fstat(self._file).st_mode):
            os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Let go of the file; another record would open it again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> None:
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o666)
        self._torn, self._joined = None, False

    def _is_there(self, file: int) -> bool:
        """Say whether the open file is the one that stands at the path."""
        try:
            there, own = self.path.stat(), os.fstat(file)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)

    def _mend(self, file: int) -> None:
        """Take away what there is of a record that could not be written whole."""
        if self._torn is not None:
            os.ftruncate(file, self._torn)
            self._torn = None

    def _before(self, size: int) -> bytes:
        """Return what must come before the next record in a file of this size."""
        if self._joined and size:
            return b""
        end = b""
        if self._lines and size:
            with contextlib.suppress(OSError), self.path.open("rb") as content:
                content.seek(size - 1)
                end = b"" if content.read(1) == b"\n" else b"\n"
        return end + self._head()
