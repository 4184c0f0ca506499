"""TensorBoard shows every step once, whatever was resumed; torch is not imported."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from board_points import board_points, events

from unitoken_jax.train.monitor import board
from unitoken_jax.train.monitor.board import Board


def _run(folder: Path, first: int, last: int, every: int = 2) -> None:
    """Train from behind step `first` to `last`, with values that tell the start."""
    writer = Board(folder, first)
    for step in range(first + every, last + 1, every):
        writer.scalars(step, {"loss": first + step / 1000}, 1.0)
    writer.close()


def test_points_are_there_once(tmp_path) -> None:
    """Also the last one before a resume, and none of what is done again."""
    _run(tmp_path, 0, 10)
    _run(tmp_path, 6, 14)
    points = board_points(tmp_path)["loss"]
    assert [step for step, _ in points] == [2, 4, 6, 8, 10, 12, 14]
    assert [round(value) for _, value in points] == [0, 0, 0, 6, 6, 6, 6]


@pytest.mark.parametrize("first", [0, 4])
def test_what_was_trained_before_a_new_start_is_hidden(tmp_path, first) -> None:
    _run(tmp_path, 0, 10)
    _run(tmp_path, 8, 20)
    _run(tmp_path, first, first + 2)
    steps = [step for step, _ in board_points(tmp_path)["loss"]]
    assert steps == [*range(2, first + 3, 2)]


def test_a_start_comes_behind_all_others_whatever_the_clock_says(
    tmp_path, monkeypatch
) -> None:
    for now in (2_000_000_000.0, 1_900_000_000.0, 1_900_000_000.0):
        monkeypatch.setattr(board.time, "time", lambda now=now: now)
        _run(tmp_path, 0, 4)
    (tmp_path / "events.out.tfevents.x").write_text("")
    _run(tmp_path, 0, 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    stamps = [name.split(".")[3] for name in names]
    assert stamps == [*(str(2_000_000_000 + i) for i in range(4)), "x"]


def test_a_picture_is_an_event(tmp_path) -> None:
    writer = Board(tmp_path, 0)
    writer.image(3, "sample", np.zeros((2, 5, 3), np.uint8), 1.0)
    writer.close()
    (path,) = tmp_path.iterdir()
    event = events(path)[-1]
    (value,) = event.summary.value
    assert (event.step, value.tag) == (3, "sample")
    assert (value.image.height, value.image.width) == (2, 5)


def test_training_imports_no_torch(tmp_path) -> None:
    """It is installed beside many a run, and importing it takes seconds."""
    for name in ("torch", "comet_ml", "boto3"):
        (tmp_path / name).mkdir()
        text = f"import sys; print('imported {name}', file=sys.stderr)"
        (tmp_path / name / "__init__.py").write_text(text)
    program = (
        "import unitoken_jax.train.__main__, sys\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "imported torch\n")
