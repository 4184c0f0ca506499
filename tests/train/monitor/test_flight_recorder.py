"""The flight recorder: two lines a step, bounded, readable whatever a crash left."""

import json
import math
import threading
import time

import numpy as np
import pytest

from unitoken_jax.train.monitor import flight_recorder
from unitoken_jax.train.monitor.flight_recorder import (
    Entry,
    FlightConfig,
    FlightRecorder,
)

ROWS = [2, 3]
RECORD = np.asarray([[7, 8], [9, -1]], np.int32)


def _batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"tokens": rng.integers(0, 9, (2, 5), np.int32), "pixels": rng.random(3)}


def _recorder(directory, process=0, steps=100, rows=ROWS) -> FlightRecorder:
    config = FlightConfig(steps=steps)
    return FlightRecorder(directory, config, process=process, rows=rows, rng=[5, 6])


def _record(directory, first, last, **options) -> None:
    with _recorder(directory, **options) as recorder:
        for step in range(first, last + 1):
            recorder.before(step, _batch(step), RECORD)
            recorder.after(step, {"loss": float(step), "grad_norm/moving": math.inf})
            assert recorder._lines.settle(30)  # this loop is faster than any training


def test_what_is_written_is_read(tmp_path) -> None:
    _record(tmp_path, 1, 4)
    _record(tmp_path, 1, 4, process=1, rows=[0, 1])
    found = flight_recorder.read(tmp_path, range(2, 4))
    assert {step: sorted(entries) for step, entries in found.items()} == {
        2: [0, 1],
        3: [0, 1],
    }
    metrics = {"loss": 3.0, "grad_norm/moving": math.inf}
    assert found[3][0] == Entry(
        ROWS, [7, 8, 9], flight_recorder.digest(_batch(3)), [5, 6], metrics
    )
    assert found[3][1].rows == [0, 1]


def test_a_step_taken_again_counts_as_the_last(tmp_path) -> None:
    _record(tmp_path, 1, 3)
    path = tmp_path / "process-00000.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "dig')  # killed here
    with _recorder(tmp_path) as recorder:
        recorder.before(2, _batch(99), None)
    found = flight_recorder.read(tmp_path, range(1, 5))
    assert sorted(found) == [1, 2, 3]
    assert found[2][0] == Entry(
        ROWS, None, flight_recorder.digest(_batch(99)), [5, 6], {}
    )


def test_lines_are_json_and_bounded(tmp_path) -> None:
    _record(tmp_path, 1, 50, steps=5)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        "process-00000.jsonl",
        "process-00000.older.jsonl",
    ]
    for file in files:
        lines = file.read_text().splitlines()
        assert len(lines) <= 11
        for line in lines:
            json.loads(line, parse_constant=pytest.fail)
    assert set(range(46, 51)) <= flight_recorder.read(tmp_path, range(51)).keys()


def test_many_starts_are_bounded_too(tmp_path) -> None:
    for start in range(12):
        _record(tmp_path, 3 * start + 1, 3 * start + 3, steps=5)
        with _recorder(tmp_path, steps=5):
            pass  # ends before its first step
    files = [file.read_text().splitlines() for file in tmp_path.iterdir()]
    assert len(files) == 2
    for lines in files:
        assert sum('"step"' in line for line in lines) <= 10
        assert sum('"rows"' in line for line in lines) <= 5
    assert set(range(32, 37)) <= flight_recorder.read(tmp_path, range(37)).keys()


def test_nothing_is_recorded_when_switched_off(tmp_path) -> None:
    with _recorder(tmp_path / "flight", steps=0) as recorder:
        recorder.before(1, _batch(1), None)
    assert not (tmp_path / "flight").exists()


def test_a_slow_disk_loses_lines_and_says_so(tmp_path, caplog, monkeypatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(flight_recorder, "digest", lambda batch: gate.wait() and "0")
    with _recorder(tmp_path) as recorder:
        for step in range(40):
            recorder.before(step, {}, None)
        gate.set()
    assert "process-00000.jsonl cannot be written: it takes too long." in caplog.text
    assert "process-00000.jsonl that were dropped: " in caplog.text


def test_it_goes_on_where_the_disk_was_full(tmp_path, caplog) -> None:
    """A full disk once ended the recorder for the rest of the run."""
    path = tmp_path / "process-00000.jsonl"
    path.symlink_to("/dev/full")
    with _recorder(tmp_path) as recorder:
        recorder.before(1, _batch(1), RECORD)
        recorder.after(1, {"loss": 1.0})
        # Nobody waits for an outlet that has failed, so it is asked until it is empty.
        deadline = time.monotonic() + 30
        while not recorder._lines.settle(1):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        path.unlink()
        recorder.before(2, _batch(2), RECORD)
        recorder.after(2, {"loss": 2.0})
    (entry,) = flight_recorder.read(tmp_path, range(9))[2].values()
    assert (entry.rows, entry.metrics) == (ROWS, {"loss": 2.0})
    assert 1 not in flight_recorder.read(tmp_path, range(9))
    assert caplog.text.count("No space left on device") == 1
    assert "that were dropped: 2" in caplog.text


@pytest.mark.parametrize(
    "line",
    ["[]", "7", '{"step": [1]}', '{"step": 1, "digest": "0"}', "[" * 100_000],
)
def test_lines_of_something_else_are_left_out(tmp_path, line) -> None:
    _record(tmp_path, 1, 2)
    path = tmp_path / "process-00000.jsonl"
    path.write_text(f"{line}\n{path.read_text()}{line}\n")
    assert sorted(flight_recorder.read(tmp_path, range(9))) == [1, 2]


def test_the_digest_tells_names_types_shapes_and_values() -> None:
    base = {"a": np.arange(6, dtype=np.int32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].astype(np.uint32)},
        {"a": base["a"].reshape(2, 3)},
        {"a": base["a"] + 1},
    ]
    digests = {flight_recorder.digest(batch) for batch in [base, *others]}
    assert len(digests) == 5
    assert flight_recorder.digest({"a": np.arange(12, dtype=np.int32)[:6]}) in digests
