"""Reading run directories, whole and damaged."""

import json

import numpy as np
import pytest

from unitoken_jax.report import run


def write_lines(folder, *lines):
    stage = folder / "base"
    stage.mkdir(exist_ok=True)
    (stage / "metrics.jsonl").write_text("\n".join(lines))
    return run.read(folder).stages[0]


def test_stages_come_in_the_order_in_which_they_ran(finished):
    names = [stage.name for stage in run.read(finished).stages]
    assert names == ["tokenizer", "siglip", "base", "stage1", "stage2"]


def test_a_half_written_last_line_is_no_fault(tmp_path):
    stage = write_lines(tmp_path, '{"step": 1, "loss": 3.0}', '{"step": 2, "lo')
    assert stage.steps == 1
    assert not any("metrics" in fault for fault in stage.faults)


def test_other_broken_lines_are_counted(tmp_path):
    stage = write_lines(
        tmp_path, '{"step": 1, "loss": 3.0}', "rubbish", "[1]", '{"step": 2, "loss": 2}'
    )
    np.testing.assert_array_equal(stage.curves["loss"].values, [3, 2])
    assert "2 of 4 lines are not metrics (the first is line 2)" in stage.faults[0]


def test_after_a_resumption_the_later_line_counts(tmp_path):
    stage = write_lines(
        tmp_path,
        '{"step": 1, "loss": 3.0}',
        '{"step": 2, "loss": 2.0}',
        '{"step": 2, "loss": 1.0}',
    )
    np.testing.assert_array_equal(stage.curves["loss"].steps, [1, 2])
    np.testing.assert_array_equal(stage.curves["loss"].values, [3, 1])


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path):
    stage = write_lines(
        tmp_path, '{"step": 1, "loss": NaN}', '{"step": 2, "loss": 2.0, "note": "x"}'
    )
    assert list(stage.curves) == ["loss"]
    np.testing.assert_array_equal(stage.curves["loss"].values, [2])
    assert stage.curves["loss"].lost == 1


def test_time_between_a_stop_and_its_resumption_does_not_count(tmp_path):
    times = [100.0, 160.0, 90_000.0, 90_030.0]
    lines = [json.dumps({"step": i, "time": t}) for i, t in enumerate(times)]
    assert write_lines(tmp_path, *lines).seconds == 90


def test_what_is_missing_is_said(tmp_path):
    faults = write_lines(tmp_path, '{"step": 1, "loss": 3.0}').faults
    assert faults == ("There is no config.json.", "There is no environment.json.")


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(run.RunError, match="not a directory"):
        run.read(tmp_path / "nowhere")
