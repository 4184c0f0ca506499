"""What is written down: means by their weights, rates, and files after a crash."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from board_points import board_points

from unitoken_jax.runtime import outlet
from unitoken_jax.train.config import TrainConfig
from unitoken_jax.train.monitor import board, metrics
from unitoken_jax.train.monitor.metrics import (
    Recorder,
    count_items,
    last_metrics,
    memory,
)

CONFIG = TrainConfig(steps=4, batch=8, log_every=2)


def _record(path: Path, rows: list[dict], start: int = 0) -> list[dict]:
    with Recorder(path, "stage", start, CONFIG) as recorder:
        for step, row in enumerate(rows, start + 1):
            recorder.add(step, {"consecutive_skips": 0} | row, {"tokens": 10.0}, 0.0)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_means_over_a_window_count_targets(tmp_path) -> None:
    rows = [
        {"loss": 1.0, "text_loss": 4.0, "text_weight": 3.0},
        {"loss": 3.0, "text_loss": 0.0, "text_weight": 0.0},
        {"loss": 5.0, "text_loss": 0.0, "text_weight": 0.0},
        {"loss": 7.0, "text_loss": 0.0, "text_weight": 0.0},
    ]
    first, second = _record(tmp_path, rows)
    assert (first["step"], first["loss"], first["text_loss"]) == (2, 2.0, 4.0)
    assert first["text_weight"] == 1.5
    assert second["loss"] == 6.0
    assert "text_loss" not in second
    assert first["tokens_per_second"] == pytest.approx(10 * first["steps_per_second"])
    assert 0 <= first["data_wait"] <= 1


def test_skipped_steps_are_left_out(tmp_path) -> None:
    rows = [
        {"loss": 1.0, "skipped": 0},
        {"loss": float("nan"), "skipped": 1, "consecutive_skips": 1},
    ]
    (row,) = _record(tmp_path, rows)
    assert (row["loss"], row["skipped"], row["consecutive_skips"]) == (1.0, 1, 1)


def test_values_that_json_has_not_are_left_out(tmp_path) -> None:
    first, _ = _record(tmp_path, [{"skipped": float("nan"), "loss": 1.0}] * 4)
    assert first["loss"] == 1.0
    assert "skipped" not in first


OUTPUTS = ("metrics.jsonl", "tensorboard", "samples")


@pytest.mark.parametrize("kind", ["disk is full", "folder is a file", "disk hangs"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_fails_stops_nothing_else(
    tmp_path, caplog, monkeypatch, kind, output
) -> None:
    """Steps go on, and the other outputs have what they should have."""
    monkeypatch.setattr(outlet, "_PATIENCE", 0.5)
    _break(tmp_path / output, kind, monkeypatch)
    config = TrainConfig(steps=4000, batch=8, log_every=1)
    began = time.monotonic()
    with Recorder(tmp_path, "stage", 0, config) as recorder:
        for step in range(1, 1501):
            recorder.add(step, {"loss": float(step)}, {}, 0.0)
            if step % 300 == 0:
                picture = np.full((4, 4, 3), step % 256, np.uint8)
                recorder.images(step, {"picture": picture})
        held_up = time.monotonic() - began
    assert held_up < 20
    assert time.monotonic() - began < 40
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    *first, last = (text for text in warnings if str(tmp_path / output) in text)
    assert " that were dropped: " in last
    # Few pictures find room to wait, so that the end alone knows of a disk that hangs.
    assert len(first) == 1 or (output, kind) == ("samples", "disk hangs")
    assert all(" cannot be written: " in text for text in first)
    if output != "metrics.jsonl":
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [*range(1, 1501)]
    if output != "tensorboard":
        assert len(board_points(tmp_path / "tensorboard")["loss"]) == 1500
    if output != "samples":
        assert len(list((tmp_path / "samples").iterdir())) == 5


def _break(path: Path, kind: str, monkeypatch) -> None:
    """Make an output impossible to write."""
    if kind == "folder is a file":
        if path.suffix:
            path.mkdir()
        else:
            path.write_text("")
    elif path.name == "metrics.jsonl":
        path.symlink_to("/dev/full") if kind == "disk is full" else os.mkfifo(path)
    elif path.name == "tensorboard":
        event = path / "events"
        path.mkdir()
        event.symlink_to("/dev/full") if kind == "disk is full" else os.mkfifo(event)
        monkeypatch.setattr(board, "_fresh", lambda _: event)
    else:

        def write(path: Path, data: bytes) -> None:
            del data
            if kind == "disk hangs":
                threading.Event().wait()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(metrics.files, "write_bytes", write)


def test_images_of_undone_steps_are_set_aside(tmp_path) -> None:
    samples, aside = tmp_path / "samples", tmp_path / "samples-abandoned"
    samples.mkdir()
    names = ["codes-0000002.png", "codes-0000004.png", "a-b-0000006.png", "mine.png"]
    for name in [*names, "codes-latest.png"]:
        (samples / name).write_bytes(b"x")
    with Recorder(tmp_path, "stage", 2, CONFIG):
        pass
    assert sorted(path.name for path in aside.iterdir()) == sorted(names[1:3])
    assert {"codes-0000002.png", "mine.png", "codes-latest.png"} == {
        path.name for path in samples.iterdir()
    }


def test_images_that_cannot_be_set_aside_stop_nothing(tmp_path, caplog) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "codes-0000004.png").write_bytes(b"x")
    (tmp_path / "samples-abandoned").write_text("no folder")
    with Recorder(tmp_path, "stage", 2, CONFIG) as recorder:
        recorder.add(3, {"loss": 1.0}, {}, 0.0)
    assert "keeps images of steps after 2, which were undone" in caplog.text


def test_what_a_full_disk_did_not_take_is_written_later(tmp_path, monkeypatch) -> None:
    """What is too much to wait for is a gap, and the next line says so."""
    monkeypatch.setattr(outlet, "_AGAIN", 0.05)
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    config = TrainConfig(steps=2000, batch=8, log_every=1)
    with Recorder(tmp_path, "stage", 0, config) as recorder:
        for step in range(1, 1101):
            recorder.add(step, {"loss": 1.0}, {}, 0.0)
        path.unlink()
        assert recorder._outputs is not None
        deadline = time.monotonic() + 30
        while not recorder._outputs.lines.settle(1.0):
            assert time.monotonic() < deadline
        recorder.add(1101, {"loss": 1.0}, {}, 0.0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, 1001), 1101]
    assert "lost_lines" not in rows[-2]
    assert rows[-1]["lost_lines"] == rows[-1]["dropped_writes"] == 100
    assert last_metrics(tmp_path, 1101)["dropped_writes"] == 100
    assert "lost_lines" not in last_metrics(tmp_path, 1101)


def test_half_a_line_of_a_killed_run_stays_one_line(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "lo')
    with Recorder(tmp_path, "stage", 2, CONFIG) as recorder:
        for step in (3, 4):
            recorder.add(step, {"loss": 2.0}, {}, 0.0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["step"] == 4


@pytest.mark.parametrize("line", ["[]", "4", "null", "[" * 100_000, '{"step": 4, "l'])
def test_the_last_metrics_of_a_damaged_file(tmp_path, line) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "time": 1.0, "loss": 2.0, "name": "x"}\n' + line)
    assert last_metrics(tmp_path, 4) == {"loss": 2.0}
    assert last_metrics(tmp_path, 5) == {}


def test_counts_what_is_not_padding() -> None:
    segments = np.array([[1, 1, 2, 0], [1, 0, 0, 0]])
    assert count_items({"segment_ids": segments}) == {"tokens": 4.0}
    assert count_items({"image": np.zeros((3, 2, 2, 3))}) == {"images": 3.0}


def test_memory_is_told_in_bytes() -> None:
    assert 2**20 < memory()["memory_bytes"] < 2**40
