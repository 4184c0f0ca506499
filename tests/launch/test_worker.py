"""How a process under a scheduler tells its end."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_cloud import HEARS

from launch.signals import PREEMPTED
from unitoken_jax.errors import REFUSED

ROOT = Path(__file__).parents[2]
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(CODE))
print("ready", flush=True)
time.sleep(60)
"""


def start(
    program: str, *words: str, by: Sequence[str] = HEARS
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.worker", "--", sys.executable, "-c"]
    return subprocess.Popen(
        [*by, *command, program, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
    ],
)
def test_the_code_is_that_of_the_command(program, code) -> None:
    with start(program) as worker:
        assert worker.wait(30) == code


@pytest.mark.parametrize(("number", "code"), [(15, PREEMPTED), (9, 137)])
def test_a_command_that_dies_by_what_it_was_asked(number, code) -> None:
    """While it compiles or evaluates nothing catches the signal."""
    program = "import os, signal, time; signal.signal(15, signal.SIG_DFL); "
    if number == signal.SIGKILL:
        program += f"signal.signal(15, lambda *_: os.kill(os.getpid(), {number})); "
    with start(f"{program}print('ready', flush=True); time.sleep(60)") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.terminate()
        assert worker.wait(30) == code


def test_no_command() -> None:
    command = [sys.executable, "-m", "launch.worker", "--"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == REFUSED
    assert done.stderr == "error: nothing to run: put a command behind --.\n"


@pytest.mark.parametrize(("saved", "code"), [(0, PREEMPTED), (1, 1)])
def test_a_command_that_was_asked_to_end(saved, code) -> None:
    with start(SAVES.replace("CODE", str(saved))) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.terminate()
        assert worker.wait(30) == code


def test_a_command_that_does_not_exist() -> None:
    command = [sys.executable, "-m", "launch.worker", "--", "/no/such/program"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 127
    assert done.stderr == "error: /no/such/program: No such file or directory.\n"


ENDS = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_worker_leaves_no_orphan(tmp_path) -> None:
    """Its command is asked to end, and saves."""
    with start(ENDS, str(tmp_path / "saved")) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.kill()
    limit = time.monotonic() + 30
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(number) -> None:
    """Of the worker, and of what it runs."""
    program = (
        "import signal; print('ready', flush=True); import time; time.sleep(1); "
        f"raise SystemExit(signal.getsignal({int(number)}) == signal.SIG_IGN)"
    )
    name = signal.Signals(number).name.removeprefix("SIG")
    with start(program, by=["env", f"--ignore-signal={name}"]) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.send_signal(number)
        assert worker.wait(30) == 1
