"""A silence is noticed once, and shows where every thread is."""

import os
import subprocess
import sys
import threading
import time

import pytest

from unitoken_jax.train.monitor.watchdog import Watchdog, WatchdogConfig


def _wait(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_silence_is_reported_once(tmp_path, caplog) -> None:
    path = tmp_path / "stacks.txt"
    with Watchdog(WatchdogConfig(seconds=0.2), path, 4) as watchdog:
        for step in range(5, 8):
            time.sleep(0.05)
            watchdog.beat(step)
        assert not caplog.records
        _wait(lambda: caplog.records)
        time.sleep(0.5)
        assert len(caplog.records) == 1
        watchdog.beat(8)
        _wait(lambda: len(caplog.records) == 2)
    assert "the last was step 7; what every thread is doing" in caplog.messages[0]
    assert "test_a_silence_is_reported_once" in path.read_text()
    assert not [t for t in threading.enumerate() if t.name == "watchdog"]


def test_none_is_noticed_while_it_is_suspended(tmp_path, caplog) -> None:
    config = WatchdogConfig(seconds=0.2)
    with Watchdog(config, tmp_path / "stacks.txt", 4) as watchdog:
        with watchdog.suspended():
            time.sleep(0.6)
        assert not caplog.records
        _wait(lambda: caplog.records)  # watched again, from here on
    assert "no step has ended for 0 s, the last was step 4" in caplog.messages[0]


def test_none_is_noticed_when_switched_off(tmp_path, caplog) -> None:
    with Watchdog(WatchdogConfig(seconds=0), tmp_path / "stacks.txt", 0):
        time.sleep(0.1)
    assert not caplog.records


HANGING = """
import pathlib, sys, time
from unitoken_jax.train.monitor.watchdog import Watchdog, WatchdogConfig
config = WatchdogConfig(seconds=0.2, end=True)
with Watchdog(config, pathlib.Path(sys.argv[1]), 3):
    time.sleep(60)
"""


@pytest.mark.parametrize("disk", ["works", "hangs"])
def test_it_may_end_the_process(tmp_path, disk) -> None:
    path = tmp_path / "stacks.txt"
    if disk == "hangs":
        os.mkfifo(path)  # nobody reads it: opening it blocks
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = (x for x in ended.stderr.splitlines() if x.startswith("error: "))
    assert line.startswith("error: no step has ended for 0 s, the last was step 3.")
    assert line.endswith("the same command resumes.")
    assert "most recent call first" in ended.stderr
    if disk == "works":
        assert "most recent call first" in path.read_text()


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds must be 0 or more"):
        WatchdogConfig(seconds=-1)
