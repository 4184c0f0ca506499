"""Log lines on the console."""

import contextlib
import errno
import io
import logging
import os
import subprocess
import sys
import time

import pytest

from unitoken_jax.runtime import outlet
from unitoken_jax.runtime.console import log_to_console, log_to_file

LOG = logging.getLogger("unitoken_jax.test")


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_console_that_is_gone_ends_nothing(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    with log_to_console():
        LOG.info("saved")


PRINTS = r"""
import logging, sys
from unitoken_jax.runtime import outlet
outlet._PATIENCE = 0.5
from unitoken_jax.runtime.console import log_to_console
with log_to_console():
    for line in range(3000):
        logging.getLogger("unitoken_jax").warning("%d ½ \ud83d", line)
    print("ready", file=sys.stderr, flush=True)
"""


@contextlib.contextmanager
def _printing(stdout, encoding: str = "utf-8"):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["nobody reads", "reader is gone", "disk is full"])
def test_no_console_holds_anyone_up(kind) -> None:
    """Nor does it keep the process from ending, or change its exit code."""
    reading, writing = os.pipe()
    if kind == "reader is gone":
        os.close(reading)
    if kind == "disk is full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), writing)
    with _printing(writing) as process:
        assert process.stderr.read() == b"ready\n"
        assert process.wait(30) == 0


def test_what_an_encoding_lacks_is_escaped(tmp_path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file, _printing(file, "ascii") as process:
        assert process.wait(30) == 0
    lines = path.read_text("ascii").splitlines()
    assert lines[0] == r"warning: 0 \xbd \ud83d"


def test_a_log_is_whole_and_in_order(tmp_path, capfd) -> None:
    path = tmp_path / "log.txt"
    with log_to_console(), log_to_file(path):
        for line in range(100):
            LOG.info("line %d", line, extra={"file_only": line % 2 == 0})
        LOG.warning("half \ud83d")
    texts = [line.split(" ", 3)[-1] for line in path.read_text().splitlines()]
    assert texts == [f"line {line}" for line in range(100)] + [r"half \ud83d"]
    printed = capfd.readouterr().out.splitlines()
    assert printed[:-1] == [f"line {line}" for line in range(1, 100, 2)]
    assert printed[-1].startswith("warning: half ")


def test_a_log_goes_on_when_it_can(tmp_path, caplog) -> None:
    folder = tmp_path / "run"
    folder.write_text("in the way")  # the log's folder cannot be made
    with log_to_file(folder / "log.txt"):
        LOG.info("first")
        time.sleep(0.1)
        folder.unlink()
        LOG.info("second")
    text = (folder / "log.txt").read_text()
    assert text.index("first") < text.index("second")


def test_a_log_that_nothing_takes_holds_nobody_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(outlet, "_PATIENCE", 0.5)
    path = tmp_path / "log.txt"
    os.mkfifo(path)  # nobody reads it: opening it blocks
    began = time.monotonic()
    with log_to_file(path):
        for line in range(1500):
            LOG.warning("line %d", line)
        assert time.monotonic() - began < 5
    assert time.monotonic() - began < 20
