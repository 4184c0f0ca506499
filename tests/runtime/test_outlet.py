"""Outputs that fail or hang cost lines, and nothing else."""

import os
import subprocess
import sys
import threading
import time

import pytest

from unitoken_jax.runtime import outlet
from unitoken_jax.runtime.outlet import AppendedFile, Outlet


def test_writes_are_done_in_order() -> None:
    done: list[int] = []
    with Outlet("numbers") as numbers:
        for number in range(500):
            assert numbers.put(lambda number=number: done.append(number))
    assert done == list(range(500))
    assert numbers.dropped == 0


def test_what_waits_for_a_full_disk_is_written_when_there_is_space(caplog) -> None:
    done: list[int] = []
    tried, full = threading.Event(), threading.Event()
    full.set()

    def write(number: int) -> None:
        tried.set()
        if full.is_set():
            raise OSError(28, "No space left on device")
        done.append(number)

    with Outlet("numbers", waiting=8) as numbers:
        numbers.put(lambda: write(0))
        assert tried.wait(60)
        for number in range(1, 20):
            numbers.put(lambda number=number: write(number))
        assert outlet.dropped() == numbers.dropped == 12
        full.clear()
    assert done == list(range(8))
    assert [record.getMessage() for record in caplog.records] == [
        caplog.messages[0],
        "writes to numbers that were dropped: 12",
    ]
    assert caplog.messages[0].startswith("numbers cannot be written: ")
    assert outlet.dropped() == 0


def test_a_full_disk_is_not_waited_for_at_the_end(caplog) -> None:
    began = time.monotonic()
    with Outlet("numbers") as numbers:
        for _ in range(30):
            numbers.put(lambda: os.open("/nowhere/at/all", os.O_RDONLY))
    assert time.monotonic() - began < 5
    assert numbers.dropped == 30
    assert "numbers cannot be written: No such file or directory." in caplog.text


def test_a_fault_of_the_program_drops_one_write(caplog) -> None:
    done: list[int] = []
    with Outlet("numbers") as numbers:
        numbers.put(lambda: 1 // 0)
        numbers.put(lambda: done.append(1))
    assert done == [1]
    assert numbers.dropped == 1
    assert "numbers cannot be written: integer division or modulo by zero" in (
        caplog.text
    )


def test_a_write_that_never_ends_holds_nobody_up(monkeypatch) -> None:
    monkeypatch.setattr(outlet, "_PATIENCE", 0.3)
    gate, ended = threading.Event(), threading.Event()
    began = time.monotonic()
    with Outlet("numbers", waiting=4, end=ended.set) as numbers:
        for _ in range(10):
            numbers.put(gate.wait)
        assert not numbers.settle(0.3)
        again = time.monotonic()
        assert not numbers.settle(30)  # nobody waits for it twice
        assert time.monotonic() - again < 5
    assert time.monotonic() - began < 10
    assert numbers.dropped == 10
    assert not ended.is_set()
    gate.set()
    assert ended.wait(10)  # closed by the one who writes, and by nobody before
    assert numbers.dropped == 10


def test_an_outlet_without_writes_has_no_thread() -> None:
    threads = threading.active_count()
    with Outlet("nothing", end=lambda: pytest.fail("ended")):
        assert threading.active_count() == threads


def _lines(path) -> list[str]:
    return path.read_text().splitlines()


def test_a_file_that_is_taken_away_is_made_again(tmp_path) -> None:
    path = tmp_path / "folder" / "lines"
    file = AppendedFile(path, head=lambda: b"head\n")
    file.append(b"one\n")
    path.unlink()
    file.append(b"two\n")
    assert _lines(path) == ["head", "two"]
    path.unlink()
    path.parent.rmdir()
    file.append(b"three\n")
    assert _lines(path) == ["head", "three"]
    path.rename(tmp_path / "older")
    file.append(b"four\n")
    file.append(b"five\n")
    assert _lines(path) == ["head", "four", "five"]
    os.truncate(path, 0)
    file.append(b"six\n")
    assert _lines(path) == ["head", "six"]
    file.close()
    path.write_text("half a li")
    file.append(b"seven\n")
    assert _lines(path) == ["half a li", "head", "seven"]
    file.close()


FILLS = """
import pathlib, resource, signal, sys
from unitoken_jax.runtime.outlet import AppendedFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = AppendedFile(pathlib.Path(sys.argv[1]))
file.append(b"a" * 99 + b"\\n")
for limit in (150, 250):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for letter in (b"b", b"c", b"d"):
        try:
            file.append(letter * 99 + b"\\n")
        except OSError as error:
            print(error.strerror)
"""


def test_half_a_record_is_never_left(tmp_path) -> None:
    """The disk takes 50 bytes of a record, and no more: they are taken back."""
    path = tmp_path / "lines"
    done = subprocess.run(
        [sys.executable, "-c", FILLS, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["File too large"] * 5
    assert _lines(path) == ["a" * 99, "b" * 99]


def test_folders_that_cannot_be_written_are_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "lines"):
        with pytest.raises(OSError, match=r"director|exists"):
            AppendedFile(path).append(b"line\n")
