"""What is written down: means by their weights, rates, and files after a crash."""

import json
from pathlib import Path

import numpy as np
import pytest

from unitoken_jax.train.job import TrainConfig
from unitoken_jax.train.metrics import Recorder, count_items, memory

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


def test_half_a_line_of_a_killed_run_stays_one_line(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "lo')
    with Recorder(tmp_path, "stage", 2, CONFIG) as recorder:
        for step in (3, 4):
            recorder.add(step, {"loss": 2.0}, {}, 0.0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["step"] == 4


def test_counts_what_is_not_padding() -> None:
    segments = np.array([[1, 1, 2, 0], [1, 0, 0, 0]])
    assert count_items({"segment_ids": segments}) == {"tokens": 4.0}
    assert count_items({"image": np.zeros((3, 2, 2, 3))}) == {"images": 3.0}


def test_memory_is_told_in_bytes() -> None:
    assert 2**20 < memory()["memory_bytes"] < 2**40
