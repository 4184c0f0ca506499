"""Two runs in one directory: the second waits, and is refused."""

import errno
import fcntl
import subprocess
import sys

import pytest

from unitoken_jax.config import UserError
from unitoken_jax.runtime import lock

HOLDS = """
import pathlib, sys, time
from unitoken_jax.runtime import lock
with lock.only_run(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(workdir, seconds: float) -> subprocess.Popen[str]:
    """Start another run in a directory; return when it has begun."""
    command = [sys.executable, "-c", HOLDS, str(workdir), str(seconds)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    return other


def test_a_second_run_is_refused_until_the_first_is_killed(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    with hold(tmp_path, 60) as other:
        sentence = rf"^{tmp_path}: another run \(process {other.pid} on .*\) is in this"
        with pytest.raises(UserError, match=sentence), lock.only_run(tmp_path):
            pass
        other.kill()
        other.wait(30)
        with lock.only_run(tmp_path):
            pass


def test_a_run_that_ends_is_waited_for(tmp_path, caplog) -> None:
    with hold(tmp_path, 1) as other, caplog.at_level("INFO"), lock.only_run(tmp_path):
        assert other.wait(30) == 0
    assert caplog.text.count("waiting up to 120 s for another run") == 1


def test_a_file_system_without_locks(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.only_run(tmp_path):
        pass
