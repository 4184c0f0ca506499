"""Processes of this machine that run and end together."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local
from launch.signals import PREEMPTED
from unitoken_jax.config import UserError

ROOT = Path(__file__).parents[2]
WAITS = "import time; time.sleep(60)"


def python(*programs: str) -> list[list[str]]:
    return [[sys.executable, "-c", program] for program in programs]


def test_every_process_knows_its_place() -> None:
    first, second = local.commands(["--workdir=a b"], 2, 123)
    assert first[0] == sys.executable
    assert first[1:4] == ["-m", "unitoken_jax.train", "--workdir=a b"]
    assert first[4:] == ["--coordinator=localhost:123", "--processes=2", "--process=0"]
    assert second[:-1] == first[:-1]
    assert second[-1] == "--process=1"


def test_one_process_needs_no_coordinator() -> None:
    (only,) = local.commands(["--workdir=a"], 1, 123)
    assert only[1:] == ["-m", "unitoken_jax.train", "--workdir=a"]


def test_nothing_to_run() -> None:
    with pytest.raises(UserError, match="behind --, such as"):
        local.run(["--processes", "2"])
    with pytest.raises(UserError, match="--processes: expected a whole number of 1"):
        local.run(["--processes", "0", "--", "--workdir=a"])


def test_dry_run_prints_the_commands(capsys) -> None:
    words = ["--processes=2", "--devices=4", "--dry_run", "--", "--workdir", "a b"]
    assert local.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("JAX_NUM_CPU_DEVICES=4 ")
    assert re.search(r"--workdir 'a b' --coordinator=localhost:\d+ ", lines[1])


def test_output_of_the_others_is_named(capsys) -> None:
    group = local.Group(python("print('one')", "print('two')"), os.environ)
    assert group.wait() == 0
    assert capsys.readouterr().out == "process 1: two\n"


def test_a_failure_ends_the_others() -> None:
    began = time.monotonic()
    group = local.Group(python("raise SystemExit(7)", WAITS, WAITS), os.environ)
    assert group.wait() == 7
    assert time.monotonic() - began < 20


def test_failed_runs_start_again(tmp_path, monkeypatch, capfd) -> None:
    mark = tmp_path / "failed"
    fails_once = f"""
import pathlib, sys
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.touch()
    sys.exit(1)
print("went on")
"""
    monkeypatch.setattr(local, "commands", lambda *_: python(fails_once, WAITS[:11]))
    assert local.run(["--processes=2", "--retries=1", "--", "x"]) == 0
    assert "went on" in capfd.readouterr().out
    mark.unlink()
    assert local.run(["--processes=2", "--", "x"]) == 1


def test_a_group_that_is_asked_while_it_starts_ends(monkeypatch) -> None:
    """A signal that comes before there are processes to tell is not lost."""

    class Slow(local.Group):
        def __init__(self, commands, env) -> None:
            super().__init__(commands, env)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(local, "Group", Slow)
    monkeypatch.setattr(local, "commands", lambda *_: python(WAITS))
    began = time.monotonic()
    assert local.run(["--retries=3", "--", "x"]) == PREEMPTED
    assert time.monotonic() - began < 20


def test_numbers_below_what_makes_sense() -> None:
    with pytest.raises(UserError, match="--retries: expected a whole number of 0 or"):
        local.run(["--retries", "-1", "--", "x"])


def test_asking_the_launcher_asks_all(tmp_path) -> None:
    saves = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(sys.argv[1] + '.ready').touch()\n"
        "time.sleep(60)\n"
    )
    program = (
        "import sys\n"
        "from launch import local\n"
        f"saves = {saves!r}\n"
        f"paths = [{str(tmp_path / '0')!r}, {str(tmp_path / '1')!r}]\n"
        "command = [sys.executable, '-c', saves]\n"
        "local.commands = lambda *_: [[*command, path] for path in paths]\n"
        "sys.exit(local.run(['--processes=2', '--', 'x']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as launcher:
        while len(list(tmp_path.glob("*.ready"))) < 2:
            assert launcher.poll() is None
            time.sleep(0.05)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(30) == PREEMPTED
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
