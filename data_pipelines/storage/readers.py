"""Open shards: few at a time for the whole process, shared by its threads.

A file system may fail for a moment, so a read is tried again; what fails for good is
told apart: an entry that is damaged (`ShardError`) can be done without, a whole file
that is missing, changed or cannot be opened (`StorageError`) cannot.
"""

import contextlib
import errno
import logging
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines.errors import DataError
from data_pipelines.storage.manifest import Shard

_LOG = logging.getLogger(__name__)

_MOST_OPEN = 256
# Entries are read one by one at random: nothing is read ahead, neither of entries nor
# of the footer, whose default is 1 MiB at each opening.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:0"
_BUFFER = 4096
_PAUSES = (0.05, 0.5, 2.0)  # seconds before a file that failed is opened again
_AGAIN = "copy it again or prepare the data again with --overwrite"
# What a file system says of itself, in the words of the reader's errors.
_FILE_SYSTEM = tuple(
    os.strerror(number)
    for number in (
        *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES),
        *(errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EINTR, errno.ENOMEM),
    )
)
_ADVICE = {
    errno.ENOENT: f"it is missing: removed, moved or never copied; {_AGAIN}",
    errno.ENOTDIR: f"it is missing: its folder is none; {_AGAIN}",
    errno.EISDIR: f"it is a folder and no file; remove it, and {_AGAIN}",
    errno.ELOOP: f"it is a link that leads to itself; remove it, and {_AGAIN}",
    errno.EACCES: "this user may not read it; change its permissions or its owner",
    errno.EPERM: "this user may not read it; change its permissions or its owner",
    errno.EMFILE: "this process has too many files open, which says nothing of the "
    "file; raise the limit (ulimit -n 4096) and start again",
    errno.ENFILE: "this machine has too many files open, which says nothing of the "
    "file; end other programs or raise fs.file-max, and start again",
}


class ShardError(DataError):
    """A shard cannot be read or written; the message names the file."""


class StorageError(ShardError):
    """All of a file cannot be read, so that setting records aside does not help."""


def unreachable(path: Path, error: OSError) -> StorageError:
    """Says why the system does not give a file, and what to do."""
    number = error.errno or 0
    advice = _ADVICE.get(
        number,
        "the file system failed, which says nothing of the file; see to the disk or "
        "the mount, and start again",
    )
    reason = error.strerror or str(error)
    return StorageError(f"{path} cannot be read ({reason}): {advice}")


def file_size(path: Path) -> int:
    """The bytes of a file that can be opened for reading.

    Raises:
        StorageError: It cannot.
    """
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise unreachable(path, error) from error


def check_size(path: Path, shard: Shard) -> None:
    """Compares the size of a file with its row of the manifest.

    Raises:
        StorageError: It is another, or the file cannot be opened.
    """
    size = file_size(path)
    if size != shard.size:
        raise StorageError(
            f"{path} has {size:,} bytes, its manifest says {shard.size:,}: the file "
            f"was {'cut off' if size < shard.size else 'changed'}; {_AGAIN}"
        )


class _Open:
    """A shard that is open, or about to be.

    Attributes:
        lock: Held while it is being opened.
        reader: None before and after.
        users: Threads that read it now.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reader: ArrayRecordReader | None = None
        self.users = 0


class Readers:
    """The shards that are open, those used last at the end."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def __len__(self) -> int:
        """How many files are open or about to be."""
        return len(self._open)

    def read(self, path: str, shard: Shard, entry: int) -> bytes:
        """Reads one entry of a shard; any thread may.

        Args:
            path: Of the file.
            shard: Its row of the manifest.
            entry: From 0 on.

        Raises:
            ShardError: The entry is damaged.
            StorageError: The whole file cannot be used.
        """
        first: Exception | None = None
        for pause in (*_PAUSES, None):
            try:
                content = self._read(path, shard, entry)
            except StorageError as error:
                if pause is None:
                    raise
                first = first or error
                self.forget([*self._open])  # which also leaves room for other files
            except RuntimeError as error:
                self.forget([path])
                if first is not None:
                    raise self._damage(path, shard, entry, error) from error
                first = error
            else:
                if first is not None:
                    _LOG.warning(
                        "%s, entry %d could be read another time only (%s)",
                        *(path, entry, first),
                    )
                return content
            time.sleep(pause or 0)
        raise AssertionError("the last time returns or raises")

    def _read(self, path: str, shard: Shard, entry: int) -> bytes:
        place = self._take(path)
        try:
            reader = place.reader or self._opened(path, shard, place)
            (content,) = reader.read([entry])
            if not content:
                # A file that was cut off while it was open says no more than that.
                check_size(Path(path), shard)
                raise RuntimeError("it is empty")
            return content
        finally:
            self._give_back(path, place)

    def _opened(self, path: str, shard: Shard, place: _Open) -> ArrayRecordReader:
        with place.lock:
            if place.reader is None:
                place.reader = _open(Path(path), shard)
            return place.reader

    def check(self, path: str, shard: Shard) -> None:
        """Opens a shard, which compares its footer's digest and number of entries.

        Raises:
            StorageError: It cannot be opened.
        """
        place = self._take(path)
        try:
            self._opened(path, shard, place)
        finally:
            self._give_back(path, place)

    def forget(self, paths: Iterable[str]) -> None:
        """Closes files, as soon as nobody reads them."""
        with self._lock:
            places = [self._open.pop(path, None) for path in paths]
            idle = [place for place in places if place is not None and not place.users]
        _close(idle)

    def _take(self, path: str) -> _Open:
        spare: list[_Open] = []
        with self._lock:
            place = self._open.get(path)
            if place is None:
                spare = self._surplus()
                place = self._open[path] = _Open()
            self._open.move_to_end(path)
            place.users += 1
        _close(spare)
        return place

    def _surplus(self) -> list[_Open]:
        """Those used longest ago that must give way to one more."""
        surplus = len(self._open) + 1 - most_open()
        if surplus <= 0:
            return []
        idle = [path for path, place in self._open.items() if not place.users]
        return [self._open.pop(path) for path in idle[:surplus]]

    def _give_back(self, path: str, place: _Open) -> None:
        with self._lock:
            place.users -= 1
            # It was forgotten, or could not be opened.
            lost = self._open.get(path) is not place
            if not lost and place.reader is None and not place.users:
                del self._open[path]
            spare = [place] if lost and not place.users else []
        _close(spare)

    def _damage(
        self, path: str, shard: Shard, entry: int, error: Exception
    ) -> ShardError:
        """Says why an entry cannot be read."""
        check_size(Path(path), shard)
        said = str(error)
        if any(words in said for words in _FILE_SYSTEM):
            return ShardError(
                f"{path}, entry {entry} cannot be read ({said}): the file system "
                "failed, which says nothing of the file; see to the disk or the mount"
            )
        return ShardError(
            f"{path}, entry {entry} cannot be read ({said}); the file is damaged: "
            f"{_AGAIN}"
        )


def most_open() -> int:
    """How many shards may be open at once, a quarter of what the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_OPEN
    return max(1, min(_MOST_OPEN, soft // 4))


def _open(path: Path, shard: Shard) -> ArrayRecordReader:
    """Opens a shard whose footer is whole.

    The reader takes a file that is missing, or anything else, for an empty one.
    """
    try:
        reader = ArrayRecordReader(
            os.fspath(path), options=_OPTIONS, file_reader_buffer_size=_BUFFER
        )
        found, whole = reader.num_records(), reader.ok()
    except (RuntimeError, ValueError) as error:
        check_size(path, shard)
        raise StorageError(f"{path} cannot be opened ({error}); {_AGAIN}") from error
    if whole and found == shard.records:
        return reader
    _shut(reader)
    check_size(path, shard)
    raise StorageError(
        f"{path} cannot be opened: its footer is damaged or another file's, it lists "
        f"{found:,} records and the manifest {shard.records:,}; {_AGAIN}"
    )


def _close(places: Iterable[_Open]) -> None:
    for place in places:
        with place.lock:
            if place.reader is not None:
                _shut(place.reader)
                place.reader = None


def _shut(reader: ArrayRecordReader) -> None:
    """Closes a reader, which says again what it said when it failed."""
    with contextlib.suppress(RuntimeError, ValueError):
        reader.close()


READERS = Readers()  # of this process: the limit of open files is the process's, too
