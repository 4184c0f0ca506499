"""Splits of a data set as ArrayRecord files: writing them, and reading at random.

Files are named {split}-{i:05d}-of-{n:05d}.array_record and written with groups of one
record, so that reading record i decompresses record i only. Pictures stand in files of
their own, {split}.pictures-…: entry i holds the bytes of all pictures of record i, one
after another, so that what needs codes and texts alone reads no pixels.
"""

import bisect
import copy
import itertools
import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.storage import integrity, records
from data_pipelines.storage.manifest import (
    TOKENIZER,
    Manifest,
    ManifestError,
    Shard,
    file_digest,
    read_manifest,
)
from data_pipelines.storage.readers import READERS, ShardError

# Pictures are compressed already; the texts beside them gain too little to pay for
# decompression at every random read.
_OPTIONS = "group_size:1,uncompressed"


def shard_name(split: str, index: int, shards: int) -> str:
    """The file name of shard `index` of `shards` of a split."""
    return f"{split}-{index:05d}-of-{shards:05d}.array_record"


class _ShardWriter:
    """Writes one file, entry by entry."""

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        self._writer = ArrayRecordWriter(os.fspath(path), _OPTIONS)

    def write(self, entry: bytes) -> None:
        """Appends an entry."""
        self._writer.write(entry)
        self._count += 1

    def close(self) -> Shard:
        """Writes what is buffered, and returns the file's row of the manifest."""
        # Everything up to 64 KiB is buffered: close is where a full disk shows.
        self._writer.close()
        path = self._path
        with path.open("rb") as file:
            os.fsync(file.fileno())
        size = path.stat().st_size
        digest, probe = file_digest(path), integrity.probe(path)
        return Shard(path.name, self._count, size, digest, probe)


def _unwritable(paths: Iterable[Path], error: Exception) -> ShardError:
    """Removes files that could not be written whole, and says so."""
    named = list(paths)
    for path in named:
        path.unlink(missing_ok=True)
    return ShardError(
        f"{named[0]} could not be written ({error}); nothing was left behind. Free "
        "some space on the disk or choose another output directory"
    )


def write_shard(path: Path, entries: Iterable[bytes]) -> Shard:
    """Writes one file and returns its row of the manifest.

    Args:
        path: The file. Callers write into a temporary directory that is renamed when
            all of it is complete (`directory.atomic_directory`).
        entries: Of any bytes.

    Raises:
        ShardError: The file could not be written whole, as on a full disk; what had
            been written is removed.
    """
    try:
        writer = _ShardWriter(path)
        for entry in entries:
            writer.write(entry)
        return writer.close()
    except (RuntimeError, OSError) as error:
        raise _unwritable([path], error) from error


def _write_columns(path: Path, beside: Path, entries: Iterable[bytes]) -> Shard:
    """Writes encoded records into `path`, and their pictures into the file `beside`."""
    try:
        texts, pictures = _ShardWriter(path), _ShardWriter(beside)
        for entry in entries:
            text, picture = records.separate(entry)
            texts.write(text)
            pictures.write(picture)
        return replace(texts.close(), pictures=pictures.close())
    except (RuntimeError, OSError) as error:
        raise _unwritable([path, beside], error) from error


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
        _write_columns(
            directory / shard_name(split, index, shards),
            directory / shard_name(f"{split}.pictures", index, shards),
            itertools.islice(
                iterator,
                (index + 1) * count // shards - index * count // shards,
            ),
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
        digest: Of the data set: equal for equal files, as far as they were compared.
        partly_verified: Whether its files were compared in parts only.
    """

    def __init__(
        self,
        directory: str | Path,
        name: str,
        *,
        images: bool = True,
        verify: bool = False,
    ) -> None:
        """Opens a split after comparing its files with the manifest.

        A small one is compared whole, of larger ones size, footer and a few blocks of
        each file.

        Args:
            directory: A prepared data set.
            name: The split.
            images: Whether records are to hold their pictures' bytes. Without them
                the files of pictures are not read, and need not be there.
            verify: Compare every byte, whatever its size.

        Raises:
            ManifestError: The directory is no prepared data set.
            ShardError: There is no such split, or a file is missing, cut off or
                changed.
        """
        self.directory = Path(directory)
        self.name = name
        self.manifest: Manifest = read_manifest(self.directory)
        if name not in self.manifest.splits:
            raise ShardError(
                f"{directory} has no split {name!r}; it has "
                f"{', '.join(sorted(self.manifest.splits)) or 'none'}"
            )
        self._folder = str(self.directory)
        self._images = images
        self._shards = [s for s in self.manifest.splits[name] if s.records]
        self._ends = list(itertools.accumulate(s.records for s in self._shards))
        self._length = self._ends[-1] if self._ends else 0
        integrity.check_files(self.manifest, self.directory, [TOKENIZER])
        found = integrity.check_shards(self.directory, self._files(), whole=verify)
        self.partly_verified = bool(found.unverified)
        self.digest = found.extend(self.manifest.digest)

    def _files(self) -> list[Shard]:
        """The files that records are read from."""
        files = list(self.manifest.splits[self.name])
        if self._images:
            files += [shard.pictures for shard in files if shard.pictures is not None]
        return files

    @property
    def codebook_size(self) -> int | None:
        """Codes in a codebook, if the data set was made by `pretokenize`."""
        codebook = self.manifest.provenance.get("codebook")
        return None if codebook is None else codebook[1]

    def unverified(self) -> Iterator[tuple[Path, str]]:
        """Its files with their digests, each process and start beginning elsewhere."""
        files = self._files()
        first = time.time_ns() // 1000 % max(1, len(files))
        for file in [*files[first:], *files[:first]]:
            yield self.directory / file.name, file.sha256

    def without_images(self) -> "Split":
        """The same records without the bytes of their pictures, which are not read."""
        other = copy.copy(self)
        other._images = False
        return other

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> records.Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The record at `index`, which may be negative.

        Raises:
            IndexError: There is none.
            ShardError: Its shard is damaged.
            RecordError: Its bytes are no record.
        """
        index = operator.index(index)
        if not -self._length <= index < self._length:
            raise IndexError(
                f"split {self.name!r} of {self.directory} has {self._length} records; "
                f"there is no number {index}"
            )
        index %= self._length
        number = bisect.bisect_right(self._ends, index)
        shard = self._shards[number]
        entry = index - self._ends[number] + shard.records
        path = f"{self._folder}/{shard.name}"
        data = READERS.read(path, shard, entry)

        def where() -> str:
            return f"{path}, entry {entry}"

        if shard.pictures is None:
            record = records.decode(data, where)
            return record if self._images else records.outline(record)
        record, lengths = records.decode_outline(data, where)
        if not self._images or not any(lengths):
            return record
        beside = f"{self._folder}/{shard.pictures.name}"
        files = READERS.read(beside, shard.pictures, entry)
        return records.with_images(record, files, lengths, where)

    def __iter__(self) -> Iterator[records.Record]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        """Lets go of the open files; reading again opens them again."""
        READERS.forget(f"{self._folder}/{shard.name}" for shard in self._files())


def find_made(directory: Path, provenance: Mapping[str, object]) -> Manifest | None:
    """The manifest of `directory` if it is whole and was made of the same.

    Args:
        directory: Where a data set is to be made.
        provenance: Everything its bytes would be a function of.
    """
    try:
        manifest = read_manifest(directory)
        if manifest.provenance != provenance:
            return None
        integrity.check_files(manifest, directory, manifest.files)
        for shards in manifest.splits.values():
            pictures = [s.pictures for s in shards if s.pictures is not None]
            integrity.check_shards(directory, [*shards, *pictures])
    except (ManifestError, ShardError):
        return None
    return manifest
