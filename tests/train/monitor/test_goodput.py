"""Goodput over restarts: lost steps, pauses and waits are not productive."""

import json
import os
import time

import pytest

from unitoken_jax.train.monitor.goodput import Goodput


def test_productive_time_travels_in_checkpoints(tmp_path) -> None:
    now = time.time()
    first = Goodput({}, tmp_path / "metrics.jsonl", now - 100)
    first.add(30.0)
    saved = first.record()
    first.add(20.0)  # lost with the crash
    assert first.share() == pytest.approx(0.5, abs=0.01)
    second = Goodput(json.loads(json.dumps(saved)), tmp_path / "metrics.jsonl", now)
    assert second.share() == pytest.approx(0.3, abs=0.01)
    second.add(-1.0)
    assert second.share() == pytest.approx(0.3, abs=0.01)


def test_a_crash_before_the_first_checkpoint_counts(tmp_path) -> None:
    now = time.time()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps({"step": 1, "time": now - 50}) + "\n{broken")
    again = Goodput({}, metrics, now)
    again.add(25.0)
    assert again.share() == pytest.approx(0.5, abs=0.01)
    metrics.write_text("{broken")
    assert Goodput({}, metrics, now).began == now


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, "[]", "7", '{"time": 1' + "0" * 400 + "}", '{"time": NaN}', "\xff"],
)
def test_what_no_start_has_written_tells_nothing(tmp_path, line) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(line.encode("latin-1") + b"\n")
    assert Goodput({}, metrics, 5.0).began == 5.0


def test_a_pipe_in_place_of_the_metrics_holds_nobody_up(tmp_path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert Goodput({}, tmp_path / "metrics.jsonl", 5.0).began == 5.0
