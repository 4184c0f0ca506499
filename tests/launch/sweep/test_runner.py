"""Sweeps run, resume, try again and report, with a stand-in for the training."""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import stand_in
from example_sweep import write

from launch.sweep import refusals, tasks
from launch.sweep.config import points
from launch.sweep.runner import (
    Runner,
    check_launcher,
    launcher,
    places,
    train_here,
)
from unitoken_jax.errors import REFUSED, ConfigError
from unitoken_jax.report import comparison

ROOT = Path(__file__).parents[3]


def pretend(task) -> list[str]:
    return [sys.executable, stand_in.__file__, *task.arguments]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    behave(tmp_path / "s")
    return tmp_path / "s"


def behave(folder: Path, **behavior: str) -> None:
    """Say what becomes of a stage: '{stage}:{rate}' → 'fail' or 'preempt once'."""
    folder.mkdir(exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps(behavior))


def runner(folder: Path, only: Sequence[str] = (), **options) -> Runner:
    sweep = write(folder.parent)
    everything = tasks.plan(points(sweep), folder)
    chosen = tasks.plan(points(sweep), folder, points(sweep, only))
    options = {"command": pretend, "everything": everything} | options
    return Runner(sweep, chosen, folder, **options)


def state(folder: Path) -> dict[str, dict]:
    """How the tasks stand by `sweep.json`."""
    return json.loads((folder / "sweep.json").read_text())["tasks"]


def trained_in(folder: Path) -> set[str]:
    """Where each stage was trained, wherever it is linked from."""
    marks = [*folder.glob("shared/*/*/trained"), *folder.glob("points/*/*/trained")]
    return {mark.read_text() for mark in marks}


@pytest.mark.parametrize("parallel", [1, 3])
def test_shared_stages_are_trained_once(folder, parallel) -> None:
    assert runner(folder, parallel=parallel).run()
    assert len(trained_in(folder)) == 2 + 4
    for point in folder.glob("points/*"):
        assert (point / "base").is_symlink()
        assert not os.readlink(point / "base").startswith("/")
        assert (point / "base" / "finished.json").is_file()
    stands = state(folder).values()
    assert {task["status"] for task in stands} == {"done"}
    labels = [task["labels"] for task in stands]
    assert labels.count({"rate": "low"}) == labels.count(None) == 2


def test_a_complete_sweep_runs_nothing(folder) -> None:
    runner(folder).run()
    again = runner(folder)
    again._launch = lambda task: pytest.fail(f"{task.name} was started")  # type: ignore
    assert again.run()


def test_failures_are_tried_again_and_named(folder) -> None:
    behave(folder, **{"last:0.9": "fail"})
    first = runner(folder, retries=2)
    assert not first.run()
    failed = first.progress["high_seed1"]
    assert (failed.status, failed.failures) == ("failed", 3)
    assert failed.error == "RuntimeError: the chip is lost"
    assert first.progress["low_seed1"].status == "done"
    log = (folder / "logs" / "high_seed1.log").read_text()
    assert log.count("$ ") == log.count("RuntimeError: the chip is lost") == 3
    behave(folder)
    assert runner(folder).run()
    # What is done is still known to have failed, and for how long it ran.
    before = state(folder)
    assert before["high_seed1"]["status"] == "done"
    assert (before["high_seed1"]["failures"], before["high_seed1"]["error"]) == (3, "")
    assert runner(folder).run()
    assert state(folder) == before


@pytest.mark.parametrize(("what", "tries"), [("refuse", 1), ("full", 3), ("fail", 3)])
def test_what_would_be_refused_again_is_not_tried_again(folder, what, tries) -> None:
    behave(folder, **{"last:0.9": what})
    run = runner(folder, retries=2)
    assert not run.run()
    refused = run.progress["high_seed1"]
    assert (refused.status, refused.failures) == ("failed", tries)
    assert run.progress["low_seed1"].status == "done"
    if what == "refuse":
        assert refused.error == "the data is not there."


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("step 1\nerror: config.a: unknown name.\n", "config.a: unknown name."),
        ("process 1: error: process 1: none.\nx\n", "process 1: none."),
        ("the error: is within\n", ""),
        ("", ""),
    ],
)
def test_the_sentence_of_a_run(output, said) -> None:
    assert refusals.sentence(output) == said


def test_points_that_are_refused_are_written_and_named(folder) -> None:
    sweep = write(folder.parent)
    all_points = points(sweep)
    bad = {p.name: (p, "config.a: no.") for p in all_points if p.name == "high_seed1"}
    good = [point for point in all_points if point.name not in bad]
    plan = tasks.plan(good, folder)
    run = Runner(sweep, plan, folder, refused=bad, command=pretend)
    assert run.run()
    stands = state(folder)
    assert stands["high_seed1"]["status"] == "refused"
    assert stands["high_seed1"]["labels"] == {"rate": "high"}
    assert stands["high_seed2"]["status"] == "done"
    page = comparison.build(folder).read_text()
    assert "high_seed1 refused</span>: config.a: no." in page
    # It is mended.
    assert runner(folder).run()
    assert state(folder)["high_seed1"]["status"] == "done"


def test_each_launcher_runs_one_task_at_a_time(folder) -> None:
    """Of three that could run, two do, each in a place of its own."""
    sweep = write(folder.parent)
    plan = tasks.plan(points(sweep), folder)
    for task in plan:
        if task.codes is not None:  # that are there already
            (task.codes / "tokenizer").mkdir(parents=True, exist_ok=True)
            (task.codes / "tokenizer" / "manifest.json").touch()
    seen: list[list[int]] = []
    commands = [lambda task: [*pretend(task), "--by=0"]]
    commands += [lambda task: [*pretend(task), "--by=1"]]
    run = Runner(sweep, plan, folder, command=commands)
    look = run._look

    def look_and_note() -> None:
        seen.append([running.place for running in run._running])
        look()

    run._look = look_and_note  # type: ignore
    assert run.run()
    assert max(map(len, seen)) == 2
    assert all(len(set(places)) == len(places) for places in seen)
    logs = [path.read_text() for path in (folder / "logs").glob("*.log")]
    assert any("--by=1" in text for text in logs)


TPU = "tpu_vm --zone z --type v5e-8 --version v --image i --tpu"


@pytest.mark.parametrize(
    ("via", "parallel", "count"),
    [
        ([], None, 1),
        ([], 3, 3),
        ([f"{TPU} a"], None, 1),
        ([f"{TPU} a", f"{TPU} b"], None, 2),
        ([f"{TPU} a", f"{TPU} b"], 1, 1),
        ([f"{TPU} a", f"{TPU} a --project p"], 2, 2),
        (["slurm --nodes 2"], 3, 3),
        (["local --processes 2"], 2, 2),
        (["local --port 5"], 1, 1),
    ],
)
def test_how_many_run_at_a_time(via, parallel, count) -> None:
    assert len(places(via, parallel)) == count


@pytest.mark.parametrize(
    ("via", "parallel", "sentence"),
    [
        ([f"{TPU} s"], 3, "would run 3 at a time on slice s of z"),
        ([f"{TPU} s", f"{TPU} s --spot"], None, "another --via has slice s of z"),
        ([f"{TPU} a", f"{TPU} b"], 3, "2 launchers are named by --via"),
        (["local --port 5"], 2, "at a time on port 5"),
        (["tpu_vm --tpu a"], None, "the following arguments are required"),
        (["tpu_vn --tpu a"], None, "did you mean 'tpu_vm'"),
    ],
)
def test_two_runs_in_one_place_are_refused(via, parallel, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        places(via, parallel)


def test_names_that_kubernetes_cannot_tell_apart(folder) -> None:
    task = runner(folder)._tasks[0]
    alike = [dataclasses.replace(task, name=name) for name in ("a_b", "a-B")]
    words = "gke --image i --accelerator a --topology 2x2x1"
    with pytest.raises(ConfigError, match="'a_b' and 'a-B' are both 'a-b'"):
        check_launcher(words, alike)


def test_every_command_tries_as_often(folder) -> None:
    behave(folder, **{"last:0.9": "fail"})
    for failures in (2, 4):
        assert not runner(folder, only=["rate=high", "seed=1"], retries=1).run()
        assert state(folder)["high_seed1"]["failures"] == failures


def test_points_that_are_not_chosen_stand_as_they_are(folder) -> None:
    behave(folder, **{"last:0.9": "fail"})
    assert not runner(folder, retries=0).run()
    before = state(folder)
    assert before["high_seed2"]["error"] == "RuntimeError: the chip is lost"
    assert runner(folder, only=["rate=low"]).run()
    assert state(folder) == before
    assert list(state(folder)) == list(before)


def test_points_that_were_never_chosen_wait(folder) -> None:
    assert runner(folder, only=["rate=low"]).run()
    before = state(folder)
    assert before["high_seed1"]["status"] == before["high_seed2"]["status"] == "waiting"


def test_another_config_of_a_point_has_a_history_of_its_own(folder) -> None:
    assert runner(folder).run()
    path = folder / "sweep.json"
    content = json.loads(path.read_text())
    content["tasks"]["low_seed1"] |= {"run": "points/low_seed1-00000000", "failures": 1}
    content["tasks"]["low_seed2"] |= {"seconds": 5.0, "failures": 1}
    path.write_text(json.dumps(content))
    found = runner(folder).progress
    assert (found["low_seed1"].seconds, found["low_seed1"].failures) == (0.0, 0)
    assert (found["low_seed2"].seconds, found["low_seed2"].failures) == (5.0, 1)


def alone(folder: Path) -> Runner:
    """A sweep of one point, which has nothing to share."""
    sweep = write(folder.parent)
    plan = tasks.plan(points(sweep, ["rate=low", "seed=1"]), folder)
    return Runner(sweep, plan, folder, command=pretend, retries=0)


@pytest.mark.parametrize("behavior", ["", "fail"])
def test_a_sweep_that_grows_shares_what_its_first_point_trained(
    folder, behavior
) -> None:
    behave(folder, **{"last:0.1": behavior})
    assert alone(folder).run() == (not behavior)
    (point,) = folder.glob("points/*")
    assert not (point / "tokenizer").is_symlink()
    behave(folder)
    assert runner(folder).run()
    assert (point / "tokenizer").is_symlink()
    trained = [*folder.glob("shared/*/*/trained"), *folder.glob("points/*/*/trained")]
    assert {path.read_text() for path in trained if path.parent.name != "last"} == {
        str(point)
    }


def test_what_a_run_that_was_left_behind_trains_stays_its_own(folder) -> None:
    behave(folder, **{"last:0.1": "fail"})
    assert not alone(folder).run()
    (point,) = folder.glob("points/*")
    with (folder / "logs" / "low_seed1.log").open("ab") as left:
        fcntl.flock(left, fcntl.LOCK_EX)
        runner(folder)
        assert not (point / "tokenizer").is_symlink()
    runner(folder)
    assert (point / "tokenizer").is_symlink()


def test_what_starts_from_a_failed_stage_is_blocked(folder) -> None:
    behave(folder, **{"base:0.1": "fail"})
    run = runner(folder, retries=0)
    assert not run.run()
    statuses = [progress.status for progress in run.progress.values()]
    assert statuses == ["done", "failed", "blocked", "blocked", "blocked", "blocked"]


@pytest.mark.parametrize("end", ["preempt once", "preempt once with 75"])
def test_ending_early_is_no_failure(folder, end) -> None:
    behave(folder, **{"last:0.1": end})
    run = runner(folder, retries=0)
    assert run.run()
    progress = run.progress["low_seed1"]
    assert (progress.failures, progress.preemptions) == (0, 1)


def test_ending_well_with_nothing_to_show_is_a_failure(folder) -> None:
    """A directory that this machine does not see would be tried for ever."""
    behave(folder, **{"last:0.1": "end"})
    run = runner(folder, retries=1)
    assert not run.run()
    progress = run.progress["low_seed1"]
    assert (progress.failures, progress.preemptions) == (2, 0)
    assert "shows nothing new; is it shared with this machine?" in progress.error


def test_only_the_last_process_speaks(folder) -> None:
    """A fault of an earlier one is not that of one that crashes."""
    task = runner(folder)._tasks[0]
    path = folder / "logs" / f"{task.name}.log"
    path.parent.mkdir()
    path.write_text("$ before\nerror: the disk is full.\n")
    program = "import os; print('lost', flush=True); os.kill(os.getpid(), 9)"
    run = Runner(
        write(folder.parent),
        [task],
        folder,
        command=lambda _: [sys.executable, "-c", program],
        retries=0,
    )
    assert not run.run()
    assert run.progress[task.name].error == "signal 9; lost"


def test_a_run_that_starts_while_the_command_is_asked_to_end(folder) -> None:
    sweep = write(folder.parent)
    plan = tasks.plan(points(sweep), folder)[:1]
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    run = Runner(sweep, plan, folder, command=lambda _: wait)
    run._stopping = True
    run._launch(plan[0])
    assert run._running[0].process.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_is_passed_on(folder, asked) -> None:
    """Runs that are asked to end do so, and are not counted as failed."""
    saves = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit()); "
    saves += "print('up', flush=True); time.sleep(60)"
    sweep = write(folder.parent)
    plan = tasks.plan(points(sweep), folder)
    run = Runner(sweep, plan, folder, command=lambda _: [sys.executable, "-c", saves])
    look = run._look

    def look_and_ask() -> None:
        if "up" in (folder / "logs" / f"{plan[0].name}.log").read_text().split():
            os.kill(os.getpid(), asked)
        look()

    run._look = look_and_ask  # type: ignore
    assert not run.run()
    assert run.interrupted
    assert run.progress[plan[0].name].failures == 0


def test_a_run_that_was_left_behind_is_waited_for(folder) -> None:
    """What a killed command started goes on; its place is not taken."""
    run = runner(folder)
    task = run._tasks[0]
    path = folder / "logs" / f"{task.name}.log"
    path.parent.mkdir()
    left = path.open("ab")
    fcntl.flock(left, fcntl.LOCK_EX)
    look, looks = run._look, []

    def look_and_finish() -> None:
        looks.append(run.progress[task.name].status)
        if len(looks) == 2:
            task.prepare()
            subprocess.run(pretend(task), check=True)
            left.close()
        look()

    run._look = look_and_finish  # type: ignore
    assert run.run()
    assert looks[:2] == ["waiting", "waiting"]
    assert "$ " not in path.read_text()
    assert len(trained_in(folder)) == 2 + 4


def test_a_run_keeps_its_log_locked(folder) -> None:
    """The lock is that of the process, not of the command that started it."""
    sweep = write(folder.parent)
    plan = tasks.plan(points(sweep), folder)[:1]
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    run = Runner(sweep, plan, folder, command=lambda _: command)
    run._launch(plan[0])
    second = Runner(sweep, plan, folder, command=lambda _: command)
    second._launch(plan[0])
    assert not second._running
    process = run._running[0].process
    process.kill()
    process.wait()
    second._launch(plan[0])
    (running,) = second._running
    running.process.kill()
    running.process.wait()


def test_commands_of_this_machine_and_of_clusters(folder) -> None:
    task = runner(folder)._tasks[0]
    assert train_here(task)[1:3] == ["-m", "unitoken_jax.train"]
    command = launcher("slurm --nodes 2 --partition 'a b'")(task)
    assert command[1:7] == ["-m", "launch.slurm", "--nodes", "2", "--partition", "a b"]
    assert command[7:11] == ["--name", task.name, "--wait", "--"]
    assert tuple(command[11:]) == task.arguments


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (" ", "names no launcher"),
        ("slurm '", "a quote is not closed"),
        ("slurn --nodes 2", "no launcher 'slurn'; did you mean 'slurm'"),
        ("slurm --nodse 2", "--via 'slurm --nodse 2': unrecognized arguments"),
        ("gke --image i", "name --accelerator and --topology"),
    ],
)
def test_wrong_launchers_are_found_first(folder, words, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_launcher(words, runner(folder)._tasks)


def test_right_launchers_print_nothing(folder, capsys) -> None:
    for words in ("slurm --nodes 2", "local --processes 2"):
        check_launcher(words, runner(folder)._tasks)
    assert capsys.readouterr().out == ""


def sweep_of(folder: Path, *values: tuple[str, str]) -> list[str]:
    """Write a sweep over the quickstart; return the command that plans it."""
    (folder / "sweep.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    values = [{{'label': l, 'set': [s]}} for l, s in {values!r}]\n"
        "    axes = [{'name': 'x', 'values': values}]\n"
        "    config = 'configs/quickstart.py'\n"
        "    return ConfigDict({'name': 's', 'config': config, 'axes': axes})\n"
    )
    command = [sys.executable, "-m", "launch.sweep", "--dry_run"]
    return [*command, f"--config={folder / 'sweep.py'}", f"--workdir={folder / 's'}"]


def execute(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_typo_in_a_sweep_is_found_before_anything_runs(tmp_path) -> None:
    done = execute(sweep_of(tmp_path, ("a", "stages.stag2.seed=1")))
    assert done.returncode == REFUSED
    assert done.stdout == ""
    assert done.stderr.startswith("error: a_seed0: config.stages.stag2: ")
    assert "did you mean 'stage2'" in done.stderr
    assert not (tmp_path / "s").exists()


def test_what_training_refuses_is_set_aside_by_a_dry_run(tmp_path) -> None:
    steps = "stages.stage2.train.steps"
    command = sweep_of(tmp_path, ("good", f"{steps}=60"), ("bad", f"{steps}=6"))
    everywhere = "--config.stages.stage1.train.log_every=7"
    done = execute([*command, everywhere])
    assert done.returncode == REFUSED
    assert "# good_seed0: to run\n" in done.stdout
    assert "# bad_seed0: to run" not in done.stdout
    assert "# bad_seed0 is refused and set aside: " in done.stdout
    assert "1 points are refused: bad_seed0: config.stages.stage2" in done.stderr
    assert "steps does not fit 6 steps" in done.stderr
    commands = [line for line in done.stdout.splitlines() if line[:1] != "#"]
    assert commands
    assert all(everywhere in command for command in commands)
    assert not (tmp_path / "s").exists()


def test_dry_run_of_the_command_line(tmp_path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launch.sweep", "--dry_run"),
            *("--config=configs/sweeps/data_ratio.py", f"--workdir={tmp_path / 'a'}"),
            *("--only=encoding=discrete", "--only=scale=small", "--only=seed=5"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line for line in done.stdout.splitlines() if line.startswith("# ")]
    assert len(names) == 2 + 6  # tokenizer and base, six ratios
    assert "--config=configs/quickstart_encodings.py:discrete" in done.stdout
    assert not (tmp_path / "a").exists()
