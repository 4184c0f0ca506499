"""Whether files are those of the manifest: a little of each at once, all on request.

At each start sizes, footers and a few blocks of every shard are compared, and a small
data set whole; `Watch` compares the rest while a training runs, and `python -m
data_pipelines.verify` or `--verify_data` of the trainer all of it beforehand.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.storage.manifest import (
    FILE,
    Manifest,
    Shard,
    file_digest,
    read_manifest,
)
from data_pipelines.storage.readers import (
    READERS,
    ShardError,
    StorageError,
    check_size,
    unreachable,
)

_LOG = logging.getLogger(__name__)

_BLOCK = 4096  # bytes
_INNER = 6  # blocks between the first and the last
_LAST = 16  # blocks at the end, where the footer is found
_CHUNK = 2**20  # bytes read at once to compare all of a file
_SMALL = 64 * 2**20  # bytes of a split that are compared whole at each start
_THREADS = 16  # files compared at once, for disks far away
_AGAIN = "copy it again or prepare the data again with --overwrite"


def probe(path: Path) -> str:
    """The SHA-256 of a file's size, its first and last blocks and some between."""
    with path.open("rb", buffering=0) as file:
        number = file.fileno()
        size = os.fstat(number).st_size
        digest = hashlib.sha256(str(size).encode())
        tail = max(0, size - _LAST * _BLOCK)
        for step in range(_INNER + 1):
            start = tail * step // (_INNER + 1)
            digest.update(os.pread(number, min(_BLOCK, tail - start), start))
        digest.update(os.pread(number, _LAST * _BLOCK, tail))
    return digest.hexdigest()


@dataclass(frozen=True)
class Found:
    """What comparing shards found, none of which was another's.

    Attributes:
        unverified: those that were compared in parts only.
        probes: of shards whose row in the manifest has none to compare with.
    """

    unverified: Sequence[Shard]
    probes: Sequence[str]

    def extend(self, digest: str) -> str:
        """The digest of a data set, with that of what its manifest does not say."""
        if not self.probes:
            return digest
        return hashlib.sha256("\n".join([digest, *self.probes]).encode()).hexdigest()


def check_files(manifest: Manifest, directory: Path, names: Iterable[str]) -> None:
    """Compares files that are no shards with their digests in the manifest.

    Args:
        manifest: Of the data set.
        directory: Where it is.
        names: Which; those that the manifest does not have are left out.

    Raises:
        ShardError: One is missing or changed.
    """
    for name in names:
        if name in manifest.files:
            _check_digest(directory / name, manifest.files[name])


def check_tokenizer(directory: Path, name: str) -> None:
    """Compares a tokenizer with the manifest beside it, if there is one.

    Raises:
        DataError: It was changed, or the manifest cannot be read.
    """
    if (directory / FILE).exists():
        check_files(read_manifest(directory), directory, [name])


def _check_digest(path: Path, wanted: str) -> None:
    try:
        found = file_digest(path)
    except OSError as error:
        raise unreachable(path, error) from error
    if found != wanted:
        raise _changed(path)


def _changed(path: Path) -> StorageError:
    return StorageError(
        f"{path} does not have the digest of its manifest: its contents were changed; "
        f"{_AGAIN}"
    )


def check_shards(
    directory: Path, shards: Sequence[Shard], *, whole: bool = False
) -> Found:
    """Compares shards with their rows of the manifest.

    Args:
        directory: Where they are.
        shards: Their rows, of one split.
        whole: Every byte; otherwise only if they are small together.

    Raises:
        ShardError: One is missing, cut off or changed; the message names the first.
    """
    whole = whole or sum(shard.size for shard in shards) <= _SMALL
    check = _check_whole if whole else _check_parts
    # What stood there before may still be open.
    READERS.forget(str(directory / shard.name) for shard in shards)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda shard: check(directory, shard), shards))
    probes = [] if whole else [p for p, s in zip(found, shards, strict=True) if p]
    if probes:
        _LOG.warning(
            "%s was prepared by an earlier program, whose manifest does not say enough "
            "to compare large files at a start: they are compared while a training "
            "runs, or by python -m data_pipelines.verify --input %s",
            *(directory, directory),
        )
    return Found(() if whole else tuple(shards), probes)


def _check_whole(directory: Path, shard: Shard) -> str:
    path = directory / shard.name
    try:
        _check_digest(path, shard.sha256)
    except StorageError:
        check_size(path, shard)  # which says more
        raise
    return ""


def _check_parts(directory: Path, shard: Shard) -> str:
    """Returns the probe of a shard whose row has none."""
    path = directory / shard.name
    try:
        found = probe(path)
    except OSError as error:
        raise unreachable(path, error) from error
    if found != shard.probe:
        check_size(path, shard)
    if shard.probe and found != shard.probe:
        raise StorageError(
            f"{path} does not have the contents that its manifest says: they were "
            f"changed, or are another file's; {_AGAIN}"
        )
    if shard.records:
        READERS.check(str(path), shard)
    return "" if shard.probe else found


def verify(
    directory: Path, progress: Callable[[int], object] = lambda _: None
) -> Iterator[ShardError]:
    """Compares every byte of a data set with its manifest, and yields what differs.

    Args:
        directory: A prepared data set.
        progress: Called with numbers of bytes as they are read.

    Raises:
        ManifestError: The manifest itself cannot be read.
    """
    manifest = read_manifest(directory)
    for shard in all_shards(manifest):
        try:
            check_size(directory / shard.name, shard)
            compare(directory / shard.name, shard.sha256, _telling(progress))
        except ShardError as fault:
            yield fault
    for name in manifest.files:
        try:
            check_files(manifest, directory, [name])
        except ShardError as fault:
            yield fault


def all_shards(manifest: Manifest) -> list[Shard]:
    """The files of every split, those of pictures as well."""
    shards = [shard for split in manifest.splits.values() for shard in split]
    return [*shards, *(s.pictures for s in shards if s.pictures is not None)]


def _telling(progress: Callable[[int], object]) -> Callable[[int], bool]:
    def go_on(count: int) -> bool:
        progress(count)
        return True

    return go_on


def compare(path: Path, sha256: str, go_on: Callable[[int], bool]) -> bool:
    """Compares all of a file, piece by piece, as long as `go_on` says so.

    Args:
        path: The file.
        sha256: What its digest should be.
        go_on: Called with the bytes of each piece.

    Returns:
        Whether all was compared.

    Raises:
        StorageError: It cannot be read, or was changed.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                if not go_on(len(piece)):
                    return False
    except OSError as error:
        raise unreachable(path, error) from error
    if digest.hexdigest() != sha256:
        raise _changed(path)
    return True


class Watch:
    """A thread that compares whole files at a low rate, each once.

    Attributes:
        fault: What it found, after which it ends; None if nothing.
        compared: How many files were as they should be.
    """

    def __init__(self, files: Iterable[tuple[Path, str]], rate: float) -> None:
        """Begins to read.

        Args:
            files: With their SHA-256.
            rate: Bytes a second.
        """
        self.fault: DataError | None = None
        self.compared = 0
        self._files, self._rate = files, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="verify-data", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        try:
            for path, sha256 in self._files:
                if not compare(path, sha256, self._wait):
                    return
                self.compared += 1
        except DataError as fault:
            self.fault = fault
            _LOG.warning("%s", fault)
            return
        _LOG.info("all %d files of the data set are verified", self.compared)

    def _wait(self, count: int) -> bool:
        return not self._stop.wait(count / self._rate)

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()
