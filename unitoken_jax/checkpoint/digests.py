"""Digests of a folder's files: written when it is complete, compared as it is read.

`digests.json` lists every file beside it with its size and the CRC-32 of each 64 MiB
of it, and ends with the SHA-256 of that list. CRC-32 sees every flipped bit and pair
of bits of a block, and of other damage all but one in four billion, in less than half
the time of the quickest cryptographic digest; nobody is kept from forging a folder.
"""

import hashlib
import json
import logging
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from unitoken_jax.files import read_json, write_bytes

log = logging.getLogger(__name__)

FILE = "digests.json"
_BLOCK = 2**26  # bytes that one CRC-32 is of
_READ = 2**18  # bytes that are in memory at a time, of each thread: they stay in cache
_SMALL = 2**22  # bytes of a file that every process reads
_THREADS = 16

# Faults of who reads a damaged file.
EXPLAINED = (ValueError, LookupError, TypeError, OSError)


class Listed(TypedDict):
    """What is known of a file: its size, and a CRC-32 of each of its blocks."""

    size: int
    crc32: list[str]


Files = Mapping[str, Listed]


class DamagedError(ValueError):
    """A file is not what was written; the message begins with its name."""


def seal(folder: Path) -> None:
    """Write the digests of all files in `folder`; the last that is written there."""
    names = sorted(_files(folder))
    sizes = {name: (folder / name).stat().st_size for name in names}
    blocks = [(name, start) for name in names for start in _starts(sizes[name])]
    digests: dict[str, list[str]] = {name: [] for name in names}
    with _pool() as pool:
        found = _submit(pool, folder, blocks)
        for (name, _), digest in zip(blocks, found, strict=True):
            digests[name].append(digest.result())
    listed: Files = {n: {"size": sizes[n], "crc32": digests[n]} for n in names}
    write_bytes(folder / FILE, _encode(listed))


def is_sealed(folder: Path) -> bool:
    """Say whether there are digests."""
    return (folder / FILE).exists()


def mark(folder: Path) -> str | None:
    """Return the digest of a sealed folder's digests; None if it has none."""
    try:
        found = read_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    mark = found.get("sha256") if isinstance(found, Mapping) else None
    return mark if isinstance(mark, str) else None


def is_changed(folder: Path, name: str) -> bool:
    """Say whether a small file of a sealed folder is known to be another than it was.

    Where the digests themselves are damaged nothing is known.
    """
    try:
        entry = _decode(folder)[name]
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        return is_sealed(folder)
    except EXPLAINED:
        return False
    return entry["size"] != len(data) or entry["crc32"] != [f"{zlib.crc32(data):08x}"]


def verify(folder: Path, *, contents: bool = True) -> None:
    """Compare the files of a sealed folder with its digests, see `verified`."""
    with verified(folder, contents=contents):
        return


@contextmanager
def verified(
    folder: Path, *, share: tuple[int, int] = (0, 1), contents: bool = True
) -> Iterator[None]:
    """Compare the files of a sealed folder with its digests while it is being read.

    Sizes and small files are compared before the block begins, so that it reads no
    description that is damaged, and the contents of large files beside it.

    Args:
        folder: that was sealed.
        share: which part of how many of the large files to read. Processes that verify
            together each take one.
        contents: False: only sizes and small files.

    Raises:
        DamagedError: naming the file that was changed, cut, emptied or removed; also
            in place of a fault of the block that the damage explains.
        OSError: the file system failed.
    """
    listed = _decode(folder)
    for name, entry in listed.items():
        _check_size(folder / name, name, entry["size"])
    if extra := sorted(set(_files(folder)) - listed.keys()):
        log.warning(
            "%s holds what was not written there (%s); it is not read.",
            *(folder, ", ".join(extra[:3]) + (" …" if extra[3:] else "")),
        )
    blocks = [(n, start) for n in listed for start in _starts(listed[n]["size"])]
    small = [block for block in blocks if listed[block[0]]["size"] <= _SMALL]
    large = [block for block in blocks if listed[block[0]]["size"] > _SMALL]
    index, count = share
    with _pool() as pool:
        _compare(listed, small, _submit(pool, folder, small))
        large = large[index::count] if contents else []
        found = _submit(pool, folder, large)
        try:
            yield
        except EXPLAINED:
            _compare(listed, large, found)
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        _compare(listed, large, found)


def _files(folder: Path) -> Iterator[str]:
    """Yield the names of the files in a folder, without digests and hidden ones."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != FILE and not path.name.startswith("."):
            yield name


def _starts(size: int) -> range:
    return range(0, size, _BLOCK)


def _check_size(path: Path, name: str, size: int) -> None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{name}: is gone") from error
    if not stat.S_ISREG(found.st_mode):
        raise DamagedError(f"{name}: is no file")
    if found.st_size != size:
        raise DamagedError(f"{name}: has {found.st_size:,} bytes instead of {size:,}")


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "digests")


def _submit(
    pool: ThreadPoolExecutor, folder: Path, blocks: Sequence[tuple[str, int]]
) -> list[Future[str]]:
    """Begin to digest blocks (name, where it begins), many at once."""
    return [pool.submit(_read_block, folder, *block) for block in blocks]


def _compare(
    listed: Files, blocks: Sequence[tuple[str, int]], found: Sequence[Future[str]]
) -> None:
    for (name, start), digest in zip(blocks, found, strict=True):
        if listed[name]["crc32"][start // _BLOCK] != digest.result():
            for other in found:
                other.cancel()
            raise DamagedError(f"{name}: its bytes are not those that were written")


def _read_block(folder: Path, name: str, start: int) -> str:
    digest, left = 0, _BLOCK
    buffer = memoryview(bytearray(_READ))
    with (folder / name).open("rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(buffer[:left])):
            digest = zlib.crc32(buffer[:count], digest)
            left -= count
    return f"{digest:08x}"


def _encode(listed: Files) -> bytes:
    """Return the content of `digests.json`, one line a file."""
    lines = [f"{json.dumps(n)}: {json.dumps(entry)}" for n, entry in listed.items()]
    body = ",\n".join(lines)
    own = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"files": {{\n{body}\n}},\n"sha256": "{own}"}}\n'.encode()


def _decode(folder: Path) -> Files:
    """Return the files that `digests.json` lists.

    Raises:
        DamagedError: it is not, byte for byte, what was written.
    """
    try:
        data = (folder / FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedError(f"{FILE}: is gone") from error
    try:
        listed = json.loads(data)["files"]
        is_whole = _encode(listed) == data
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise DamagedError(f"{FILE}: its bytes are not those that were written")
    return listed
