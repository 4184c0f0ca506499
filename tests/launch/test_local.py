"""Processes of this machine that run and end together."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_cloud import HEARS

from launch import local
from launch.signals import PREEMPTED
from unitoken_jax.errors import REFUSED, UserError

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
    with pytest.raises(UserError, match="--port: expected a whole number of 0 to 655"):
        local.run(["--port=99999", "--processes=2", "--", "--workdir=a"])


def test_dry_run_prints_the_commands(capsys) -> None:
    words = ["--processes=2", "--devices=4", "--dry_run", "--", "--workdir", "a b"]
    assert local.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("JAX_NUM_CPU_DEVICES=4 ")
    assert re.search(r"--workdir 'a b' --coordinator=localhost:\d+ ", lines[1])


@pytest.mark.parametrize(
    ("options", "platforms"),
    [
        ([], None),
        (["--devices=4"], "cpu"),
        (["--platform=cuda"], "cuda"),
        (["--platform=any", "--devices=2"], ""),
    ],
)
def test_what_jax_must_use(monkeypatch, capsys, options, platforms) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert local.run([*options, "--dry_run", "--", "x"]) == 0
    words = shlex.split(capsys.readouterr().out)
    found = dict(word.split("=", 1) for word in words if "=" in word)
    assert found.get("JAX_PLATFORMS") == platforms


def test_the_environment_says_what_jax_uses(monkeypatch, capsys) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert local.run(["--devices=2", "--dry_run", "--", "x"]) == 0
    assert "JAX_PLATFORMS" not in capsys.readouterr().out


def test_devices_are_of_the_cpu() -> None:
    with pytest.raises(UserError, match="--platform=cuda does not use it"):
        local.run(["--devices=2", "--platform=cuda", "--", "x"])


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


def test_what_is_refused_does_not_start_again(monkeypatch, capfd) -> None:
    """Also if another process has noticed it first, and ended by that."""
    ends = [f"raise SystemExit({code})" for code in (1, REFUSED)]
    monkeypatch.setattr(local, "commands", lambda *_: python(*ends))
    assert local.run(["--processes=2", "--retries=3", "--", "x"]) == REFUSED
    said = capfd.readouterr().out
    assert said.count("a process ended with 78; it would be refused again") == 1


def test_a_refused_config_is_not_tried_again(tmp_path) -> None:
    words = ["--config", "configs/quickstart.py", "--workdir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "launch.local", "--retries=3", "--", *words]
    done = subprocess.run(
        [*command, "--config.name=x", "--config.nam=y"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == REFUSED
    assert done.stderr.count("error: config.nam: unknown name; did you mean") == 1


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


SAVES = """
import os, pathlib, signal, sys, time
_, path, speaks = sys.argv
def save(*_):
    for _ in range(2 if speaks == "yes" else 0):
        print("saving", flush=True)
        time.sleep(0.5)
    pathlib.Path(path).touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
pathlib.Path(path + ".part").write_text(str(os.getpid()))
pathlib.Path(path + ".part").rename(path + ".ready")
time.sleep(60)
"""
LAUNCHES = """
import sys
from launch import local
_, saves, folder = sys.argv
local.commands = lambda *_: [
    [sys.executable, "-c", saves, f"{folder}/{number}", "yes" if number else "no"]
    for number in range(2)
]
sys.exit(local.run(["--processes=2", "--", "x"]))
"""


def launch(folder, by: Sequence[str] = HEARS, terminal=None) -> subprocess.Popen[bytes]:
    """Start a launcher; return when its processes have begun."""
    command = [*by, sys.executable, "-c", LAUNCHES, SAVES, str(folder)]
    launcher = subprocess.Popen(
        command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal
    )
    while len(list(folder.glob("*.ready"))) < 2:
        assert launcher.poll() is None
        time.sleep(0.05)
    return launcher


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asking_the_launcher_asks_all(tmp_path, number) -> None:
    with launch(tmp_path) as launcher:
        launcher.send_signal(number)
        assert launcher.wait(30) == PREEMPTED
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_a_terminal_that_is_closed_asks_all(tmp_path) -> None:
    """Also those who then have something to say."""
    outer, inner = os.openpty()
    by = ["setsid", "--ctty", *HEARS]
    with launch(tmp_path, by, inner) as launcher:
        os.close(inner)
        os.close(outer)
        launcher.wait(30)
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_a_killed_launcher_leaves_no_orphan(tmp_path) -> None:
    """Its processes are asked to end, and save."""
    with launch(tmp_path) as launcher:
        launcher.kill()
    pids = [int(path.read_text()) for path in tmp_path.glob("*.ready")]
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert (tmp_path / "0").exists()


def test_nohup_keeps_a_run(tmp_path) -> None:
    with launch(tmp_path, ["env", "--ignore-signal=HUP"]) as launcher:
        launcher.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            launcher.wait(0.5)
        launcher.terminate()
        assert launcher.wait(30) == PREEMPTED
