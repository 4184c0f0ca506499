"""The records of a split prepared for batches, some kept in memory.

A record that cannot be read or decoded is set aside: counted, named with its reason,
and never asked for again. Only more of them than the limits end a run.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from data_pipelines.errors import DataError
from data_pipelines.storage.readers import StorageError
from data_pipelines.storage.records import Record

_LOG = logging.getLogger(__name__)


FEW = 5  # records are no share of a small data set


class BadRecordsError(DataError):
    """More records than allowed had to be set aside; the message holds the first."""


class Sized(Protocol):
    """What a cache prepares of a record: anything that knows its size."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory it takes."""
        ...


T = TypeVar("T", bound=Sized)


class RecordCache(Generic[T]):
    """Prepared records by index; None for those set aside. Threads may share it.

    Attributes:
        bad_records: id (or place) of every record set aside → why.
    """

    def __init__(
        self,
        split: Sequence[Record],
        prepare: Callable[[Record], T],
        *,
        cache_bytes: int,
        bad_limit: int,
        bad_share: float = 1.0,
        outlines: Sequence[Record] | None = None,
    ) -> None:
        """Wraps a split.

        Args:
            split: records by index; reading one may raise a DataError.
            prepare: makes of a record what batches need; may raise a DataError.
            cache_bytes: memory for prepared records. The first that fit stay: under a
                shuffle each is as likely to be wanted again as any other.
            bad_limit: how many records may be set aside.
            bad_share: which share of them may, whatever `bad_limit` allows; `FEW`
                always may.
            outlines: the same records without what takes long to read, for `scan`; the
                split itself if None.
        """
        self.bad_records: dict[str, str] = {}
        self._split = split
        self._outlines = split if outlines is None else outlines
        self._prepare = prepare
        self._room = cache_bytes
        self._bad_limit, self._bad_share = bad_limit, bad_share
        self._kept: dict[int, T] = {}
        self._aside: set[int] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._reading = 0
        self._scanning = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> T | None:
        if (kept := self._kept.get(index)) is not None:
            return kept
        if index in self._aside:
            return None
        try:
            with self._files():
                prepared = self._prepare(self._split[index])
        except StorageError:
            raise  # a file is gone: nothing could be set aside
        except DataError as error:
            self.set_aside(index, error)
            return None
        with self._lock:
            if prepared.nbytes <= self._room and index not in self._kept:
                self._room -= prepared.nbytes
                self._kept[index] = prepared
        return prepared

    def good_from(self, index: int) -> tuple[int, T]:
        """Returns the first record from `index` on, round the end, that is not bad."""
        for offset in range(len(self._split)):
            number = (index + offset) % len(self._split)
            if (prepared := self[number]) is not None:
                return number, prepared
        raise BadRecordsError(f"no record can be used; {self._first()}")

    def scan(self) -> Iterator[tuple[int, Record]]:
        """Yields (index, record) in order, of the records that can be read.

        Until it ends `check_share` is left to the caller.
        """
        self._scanning = True
        try:
            for index in range(len(self._split)):
                try:
                    with self._files():
                        record = self._outlines[index]
                except StorageError:
                    raise
                except DataError as error:
                    self.set_aside(index, error)
                else:
                    yield index, record
        finally:
            self._scanning = False

    def identify(self, index: int) -> str:
        """Returns the id of record `index`, or its place if it cannot be read."""
        try:
            with self._files():
                return self._outlines[index]["id"]
        except DataError:
            return f"entry {index}"

    def set_aside(self, index: int, reason: Exception) -> None:
        """Gives up a record, and reports it."""
        with self._lock:
            self._aside.add(index)
        self.report(index, reason)

    def report(self, index: int, reason: Exception) -> None:
        """Counts a record as bad and names it, once.

        Raises:
            BadRecordsError: it is one too many.
        """
        name = self.identify(index)
        with self._lock:
            if name in self.bad_records:
                return
            self.bad_records[name] = str(reason)
            count = len(self.bad_records)
        _LOG.warning("set aside record %s: %s", name, reason)
        if count > self._bad_limit:
            raise BadRecordsError(
                f"{count} records had to be set aside and bad_limit is "
                f"{self._bad_limit}; {self._first()}"
            )
        if not self._scanning:
            self.check_share()

    def check_share(self) -> None:
        """Refuses to go on without too large a share of the records.

        It is asked once all were scanned, to say how many there are in all, and
        whenever one turns out to be bad after that.

        Raises:
            BadRecordsError: more than `bad_share` of them were set aside.
        """
        count, total = len(self.bad_records), len(self._split)
        if count > max(FEW, int(self._bad_share * total)):
            raise BadRecordsError(
                f"{count:,} of {total:,} records ({count / total:.1%}) had to be set "
                f"aside and bad_share is {self._bad_share:.1%}; {self._first()}. Mend "
                "the data, or raise data.bad_share if that is how it is meant to be"
            )

    def close(self) -> None:
        """Waits for reads under way and lets no other begin.

        Threads that build batches ahead thus end soon, and files can be closed.
        """
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._reading)

    @contextmanager
    def _files(self) -> Iterator[None]:
        """Counts a read as under way."""
        with self._idle:
            if self._closed:
                raise RuntimeError("records were asked for after the loader was closed")
            self._reading += 1
        try:
            yield
        finally:
            with self._idle:
                self._reading -= 1
                self._idle.notify_all()

    def _first(self) -> str:
        name, reason = next(iter(self.bad_records.items()), ("none", "no records"))
        return f"the first is {name}: {reason}"
