"""Runs of several processes: as one, asked to end, killed, and resumed elsewhere."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import miniature
import pytest

from unitoken_jax.checkpoint.reader import steps
from unitoken_jax.train import stage
from unitoken_jax.train.components import StageComponents

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])
}
# A sum over the batch takes another order on another number of devices: float32 rounds
# each to 6e-8 of its size, and some tens of steps let that grow.
TOLERANCE = 1e-5
FIELDS = {
    "optimizer": {
        "learning_rate": 1e-2,
        "schedule": "constant",
        "groups": {
            "moving": {"pattern": "(first|second)/.*"},
            "still": {"pattern": "still/.*", "frozen": True},
        },
    }
}


def _fields(steps: int, **fields) -> dict:
    train = {"steps": steps, "batch": 16, "log_every": 1}
    return FIELDS | {"train": train, "checkpoint": {"every": 10_000}} | fields


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Processes:
    """Two processes of one run in `directory`."""

    def __init__(
        self,
        directory: Path,
        fields: dict,
        *,
        devices=1,
        delay=0.0,
        asked=-1,
        digests=(miniature.Batches.digest,) * 2,
    ) -> None:
        coordinator = f"localhost:{_free_port()}"
        options = {
            "coordinator": coordinator,
            "count": 2,
            "devices": devices,
            "directory": str(directory),
            "delay": delay,
            "asked": asked,
            "fields": fields,
        }
        self._metrics = directory / "metrics.jsonl"
        self.all = [
            subprocess.Popen(
                [sys.executable, HERE / "worker.py", json.dumps(options | own)],
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for own in ({"index": i, "digest": x} for i, x in enumerate(digests))
        ]

    def wait_for_step(self, step: int) -> None:
        """Return when `step` is in the metrics."""
        deadline = time.monotonic() + 120
        while not self._metrics.exists() or step not in _losses(self._metrics.parent):
            for process in self.all:
                assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self, index: int) -> tuple[int, str, str]:
        """Return code, output and errors of a process that ends by itself."""
        output, errors = self.all[index].communicate(timeout=120)
        return self.all[index].returncode, output, errors

    def finish(self) -> list[str]:
        """Return the outputs of two processes that end well."""
        ends = [self.end(index) for index in range(2)]
        assert [code for code, _, _ in ends] == [0, 0], ends
        return [output for _, output, _ in ends]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_) -> None:
        for process in self.all:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                stream.close()


def _rows(directory: Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _losses(directory: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in _rows(directory)}


def _train_here(directory: Path, fields: dict, devices: int) -> None:
    """Train in this process, on some of its devices."""
    parts = StageComponents(miniature.system(), miniature.Batches())
    job = miniature.job(**fields)
    stage.run(job, parts, directory, devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[int, float]:
    """The curve of one process on one device."""
    directory = tmp_path_factory.mktemp("alone")
    _train_here(directory, _fields(400), 1)
    return _losses(directory)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 1, "fsdp": 2, "sequence": 2},
        pytest.param({"slice": 2, "data": 1, "fsdp": 2}, marks=pytest.mark.slow),
    ],
    ids=["one slice", "two slices"],
)
def test_two_processes_train_as_one(alone, tmp_path, mesh) -> None:
    """Each process with two devices; of two slices each process is one."""
    with Processes(tmp_path, _fields(8, mesh=mesh), devices=2) as run:
        outputs = run.finish()
    assert all(output.endswith("ended at 8: None\n") for output in outputs)
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row in rows:
        assert row["loss"] == pytest.approx(alone[row["step"]], rel=TOLERANCE)
        assert 0 < row["goodput"] <= 1
    # What is written once is written by the first alone.
    assert f"config: {tmp_path / 'config.json'}, " in outputs[0]
    assert "config: " not in outputs[1]
    assert (tmp_path / "log.txt").read_text().count("is complete after") == 1
    names = sorted(path.name for path in (tmp_path / "flight").iterdir())
    assert names == ["process-00000.jsonl", "process-00001.jsonl"]


def test_streams_that_differ_are_refused(tmp_path) -> None:
    digests = ("0123456789abcdef", "0123456789abcdee")
    with Processes(tmp_path, _fields(4), digests=digests) as run:
        ends = [run.end(index) for index in range(2)]
    for index, (code, _, errors) in enumerate(ends):
        assert code != 0
        sentence = f"error: process {index}: config.data: process 1 has other samples"
        # The first process may be gone before the other has said its own.
        assert sentence in errors or (index and "another task died" in errors), errors
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_sigterm_to_either_saves_one_step(alone, tmp_path, victim) -> None:
    with Processes(tmp_path, _fields(10_000), delay=0.01) as run:
        run.wait_for_step(3)
        run.all[victim].send_signal(signal.SIGTERM)
        outputs = run.finish()
    (saved,) = steps(tmp_path / "checkpoints")
    assert all(f"ended at {saved}: SIGTERM\n" in output for output in outputs)

    # On one process and another mesh the same stream and curve go on.
    _train_here(tmp_path, _fields(saved + 5, mesh={"data": 2, "fsdp": 2}), 4)
    losses = _losses(tmp_path)
    assert sorted(losses) == list(range(1, saved + 6))
    for step in range(1, min(saved + 6, len(alone))):
        assert losses[step] == pytest.approx(alone[step], rel=TOLERANCE)


def test_sigterm_to_one_at_the_last_step_is_known_to_both(tmp_path) -> None:
    with Processes(tmp_path, _fields(4), asked=3) as run:
        outputs = run.finish()
    assert all("ended at 4: SIGTERM\n" in output for output in outputs)
    assert stage.is_finished(tmp_path, 4)


def _steps_on_both(fast: Path) -> set[int]:
    """Return the steps that both processes have on their hosts' disks."""
    folders = list(fast.glob("unitoken-*/process-*-of-2"))
    assert len(folders) == 2
    return set.intersection(*(set(steps(folder)) for folder in folders))


@pytest.mark.parametrize(
    ("victim", "tier"),
    [pytest.param(0, "shared", marks=pytest.mark.slow), (1, "local")],
)
def test_killing_either_ends_the_other_and_a_restart_resumes(
    alone, tmp_path, victim, tier
) -> None:
    checkpoints = {"every": 5}
    if tier == "local":
        local = {"directory": str(tmp_path / "fast"), "every": 5}
        checkpoints = {"every": 10_000, "local": local}
    with Processes(
        tmp_path, _fields(10_000, checkpoint=checkpoints), delay=0.02
    ) as run:
        run.wait_for_step(26)
        run.all[victim].kill()
        code, _, errors = run.end(1 - victim)
    assert code != 0
    # The first process serves the others: without it JAX may be quicker to say so.
    ours = f"error: process {1 - victim}: the computation failed, as another process"
    theirs = "most likely indicates that another task died"
    assert ours in errors or (victim == 0 and theirs in errors), errors
    if tier == "local":
        saved = max(_steps_on_both(tmp_path / "fast"))
    else:
        saved = max(steps(tmp_path / "checkpoints"))

    with Processes(tmp_path, _fields(saved + 5, checkpoint=checkpoints)) as run:
        outputs = run.finish()
    assert f"resuming at step {saved} of {saved + 5}" in outputs[0]
    assert (f"step {saved} is restored from" in outputs[0]) == (tier == "local")
    assert not (tmp_path / "fast").exists() or not any((tmp_path / "fast").iterdir())
    losses = _losses(tmp_path)
    for step in range(1, saved + 6):
        assert losses[step] == pytest.approx(alone[step], rel=TOLERANCE)


@pytest.mark.slow
def test_a_replaced_host_makes_the_other_forget_later_steps(alone, tmp_path) -> None:
    fast = tmp_path / "fast"
    checkpoints = {"every": 20, "local": {"directory": str(fast), "every": 2}}
    fields = _fields(10_000, checkpoint=checkpoints)
    with Processes(tmp_path, fields, delay=0.05) as run:
        run.wait_for_step(32)
    later = min(_steps_on_both(fast))
    (lost,) = fast.glob("unitoken-*/process-1-of-2")
    shutil.rmtree(lost)
    (tmp_path / "metrics.jsonl").unlink()
    with Processes(tmp_path, fields, delay=0.05) as run:
        run.wait_for_step(26)
    saved = max(_steps_on_both(fast))
    assert 20 < saved < later

    with Processes(tmp_path, _fields(saved + 3, checkpoint=checkpoints)) as run:
        outputs = run.finish()
    assert f"step {saved} is restored from" in outputs[0]
    losses = _losses(tmp_path)
    for step in range(21, saved + 4):
        assert losses[step] == pytest.approx(alone[step], rel=TOLERANCE)
