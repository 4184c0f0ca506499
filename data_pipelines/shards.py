"""Splits of a data set as ArrayRecord files: writing them, and reading at random.

Files are named {split}-{i:05d}-of-{n:05d}.array_record and written with groups of one
record, so that reading record i decompresses record i only.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from data_pipelines import records
from data_pipelines.errors import DataError
from data_pipelines.manifest import (
    Manifest,
    ManifestError,
    Shard,
    file_digest,
    read_manifest,
)

_LOG = logging.getLogger(__name__)

# Pictures are compressed already; the texts beside them gain too little to pay for
# decompression at every random read.
_OPTIONS = "group_size:1,uncompressed"


class ShardError(DataError):
    """A shard cannot be read or written; the message names the file."""


def shard_name(split: str, index: int, shards: int) -> str:
    """The file name of shard `index` of `shards` of a split."""
    return f"{split}-{index:05d}-of-{shards:05d}.array_record"


def write_shard(path: Path, entries: Iterable[bytes]) -> Shard:
    """Writes one shard and returns its row of the manifest.

    Args:
        path: The file. Callers write into a temporary directory that is renamed when
            all of it is complete (`directory.atomic_directory`).
        entries: Encoded records.

    Raises:
        ShardError: The file could not be written whole, as on a full disk; what had
            been written is removed.
    """
    count = 0
    try:
        writer = ArrayRecordWriter(os.fspath(path), _OPTIONS)
        for entry in entries:
            writer.write(entry)
            count += 1
        # Everything up to 64 KiB is buffered: close is where a full disk shows.
        writer.close()
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (RuntimeError, OSError) as error:
        path.unlink(missing_ok=True)
        raise ShardError(
            f"{path} could not be written ({error}); nothing was left behind. Free "
            "some space on the disk or choose another output directory"
        ) from error
    return Shard(path.name, count, path.stat().st_size, file_digest(path))


def write_split(
    directory: Path,
    split: str,
    entries: Iterable[bytes],
    *,
    count: int,
    shards: int,
) -> tuple[Shard, ...]:
    """Writes `count` encoded records in order to `shards` files of nearly equal length.

    Raises:
        ShardError: A file could not be written, or `entries` is not `count` long.
    """
    iterator = iter(entries)
    written = tuple(
        write_shard(
            directory / shard_name(split, index, shards),
            islice(iterator, (index + 1) * count // shards - index * count // shards),
        )
        for index in range(shards)
    )
    total = sum(shard.records for shard in written)
    if total != count or next(iterator, None) is not None:
        raise ShardError(
            f"split {split!r} was announced with {count} records but has "
            f"{'more' if total == count else total}"
        )
    return written


class Split(Sequence[records.Record]):
    """The records of one split by index, in the order of their shards.

    Picklable and safe to share between threads, as Grain's sources are.

    Attributes:
        directory: The prepared data set.
        name: The split, such as 'train'.
        manifest: The data set's manifest.
    """

    def __init__(
        self, directory: str | Path, name: str, *, verify: bool = False
    ) -> None:
        """Opens a split after checking its files against the manifest.

        Args:
            directory: A prepared data set.
            name: The split.
            verify: Also compare the digest of every shard, which reads all of it.

        Raises:
            ManifestError: The directory is no prepared data set.
            ShardError: There is no such split, or a shard is missing, cut off or
                changed.
        """
        self.directory = Path(directory)
        self.name = name
        self.manifest: Manifest = read_manifest(self.directory)
        if name not in self.manifest.splits:
            raise ShardError(
                f"{directory} has no split {name!r}; it has "
                f"{', '.join(sorted(self.manifest.splits))}"
            )
        self._shards = [s for s in self.manifest.splits[name] if s.records]
        for shard in self.manifest.splits[name]:
            check_shard(self.directory, shard, verify=verify)
        self._source = self._open()
        self._length = sum(shard.records for shard in self._shards)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> records.Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The record at `index`, which may be negative.

        Raises:
            IndexError: There is none.
            ShardError: Its shard is damaged.
            RecordError: Its bytes are no record.
        """
        return records.decode(self.raw(index), self._where(index))

    def __iter__(self) -> Iterator[records.Record]:
        return (self[index] for index in range(len(self)))

    def raw(self, index: int) -> bytes:
        """The encoded record at `index`; raises as `__getitem__`."""
        if not -self._length <= index < self._length or self._source is None:
            raise IndexError(
                f"split {self.name!r} of {self.directory} has {self._length} records; "
                f"there is no number {index}"
            )
        index = int(index) % self._length
        try:
            return self._read(self._source, index)
        except (RuntimeError, ValueError, OSError) as error:
            raise ShardError(
                f"{self._where(index)} cannot be read ({error}); the file is damaged: "
                "copy it again or prepare the data again with --overwrite"
            ) from error

    def _read(self, source: ArrayRecordDataSource, index: int) -> bytes:
        """Reads a record, once more if that fails: a file system may, for a moment."""
        try:
            return source[index]
        except (RuntimeError, OSError) as error:
            content = source[index]
            _LOG.warning(
                "%s could be read the second time only (%s)", self._where(index), error
            )
            return content

    def close(self) -> None:
        """Lets go of the open files; reading again opens them again."""
        self._source = self._open()

    def _open(self) -> ArrayRecordDataSource | None:
        # grain refuses a source of no files
        paths = [os.fspath(self.directory / shard.name) for shard in self._shards]
        return ArrayRecordDataSource(paths) if paths else None

    def _where(self, index: int) -> str:
        index %= self._length
        for shard in self._shards:
            if index < shard.records:
                return f"{self.directory / shard.name}, entry {index}"
            index -= shard.records
        raise IndexError(index)


def check_shard(directory: Path, shard: Shard, *, verify: bool) -> None:
    """Compares a shard with its row of the manifest: its size, its digest on `verify`.

    Raises:
        ShardError: It is missing, cut off or changed.
    """
    path = directory / shard.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ShardError(
            f"{path} is missing ({error.strerror}); copy it again or prepare the data "
            "again with --overwrite"
        ) from error
    if size != shard.size:
        raise ShardError(
            f"{path} has {size:,} bytes, its manifest says {shard.size:,}: the file "
            f"was {'cut off' if size < shard.size else 'changed'}. Copy it again or "
            "prepare the data again with --overwrite"
        )
    if verify and file_digest(path) != shard.sha256:
        raise ShardError(
            f"{path} does not have the digest of its manifest: its contents were "
            "changed. Copy it again or prepare the data again with --overwrite"
        )


def find_made(directory: Path, provenance: dict[str, Any]) -> Manifest | None:
    """The manifest of `directory` if it is whole and was made of the same.

    Args:
        directory: Where a data set is to be made.
        provenance: Everything its bytes would be a function of.
    """
    try:
        manifest = read_manifest(directory)
        for shards in manifest.splits.values():
            for shard in shards:
                check_shard(directory, shard, verify=False)
        whole = all(
            file_digest(directory / name) == digest
            for name, digest in manifest.files.items()
        )
    except (ManifestError, ShardError, OSError):
        return None
    return manifest if whole and manifest.provenance == provenance else None
