"""What happens to files: eleven kinds of damage, and single bits that flip."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def _write_at(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def cut(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def emptied(path: Path, _: Path) -> None:
    os.truncate(path, 0)


def deleted(path: Path, _: Path) -> None:
    path.unlink()


def zeroed(path: Path, _: Path) -> None:
    _write_at(path, 0, bytes(path.stat().st_size))


def zeroed_within(path: Path, _: Path) -> None:
    size = path.stat().st_size
    _write_at(path, size // 3, bytes(size // 5))


def swapped(path: Path, other: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def copied(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def directory(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def symlink_loop(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def appended(path: Path, _: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def footer_damaged(path: Path, _: Path) -> None:
    _write_at(path, path.stat().st_size - 65_536 + 64, b"\xff" * 64)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    function.__name__: function
    for function in (
        *(cut, emptied, deleted, zeroed, zeroed_within, swapped, copied, directory),
        *(symlink_loop, appended, footer_damaged),
    )
}


def flip(path: Path, bit: int) -> None:
    """Flips one bit of a file."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
