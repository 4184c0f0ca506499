"""Reading run directories, whole and damaged."""

import json

import numpy as np
import pytest

from unitoken_jax.report import page, run


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


def test_numbers_that_no_page_can_draw_are_left_out(tmp_path):
    huge = 10**400
    stage = write_lines(
        tmp_path,
        '{"step": 1, "loss": 3.0, "time": 5.0, "steps_per_second": 1.0}',
        f'{{"step": {huge}, "loss": 2.0}}',
        '{"step": -1, "loss": 2.0}',
        '{"step": true, "loss": 2.0}',
        f'{{"step": 2, "loss": {huge}, "time": {huge}, "steps_per_second": 1e-320}}',
        '{"step": 3, "loss": 1e308}',
        '{"step": 4, "loss": -1e308}',
    )
    np.testing.assert_array_equal(stage.curves["loss"].steps, [1])
    assert (stage.steps, stage.seconds) == (4, 1.0)
    assert "3 of 7 lines are not metrics (the first is line 2)" in stage.faults[0]
    values = {"value": huge, "low": 0, "high": 1, "count": 3, "unit": "%"}
    content = {"generation": {"measures": {"accuracy/all": values}}}
    (tmp_path / "evaluation").mkdir()
    for name in ("default", "other"):
        path = tmp_path / "evaluation" / f"{name}.json"
        path.write_text(json.dumps(content))
    assert page.build(tmp_path).is_file()


def test_after_a_resumption_the_later_line_counts(tmp_path):
    stage = write_lines(
        tmp_path,
        '{"step": 1, "loss": 3.0}',
        '{"step": 2, "loss": 2.0}',
        '{"step": 2, "loss": 1.0}',
    )
    np.testing.assert_array_equal(stage.curves["loss"].steps, [1, 2])
    np.testing.assert_array_equal(stage.curves["loss"].values, [3, 1])


def test_an_earlier_start_that_went_further_is_undone(tmp_path):
    losses = [(1, 5), (2, 6), (4, 7), (6, 8), (2, 1), (3, 2)]
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in losses]
    stage = write_lines(tmp_path, *lines)
    np.testing.assert_array_equal(stage.curves["loss"].steps, [1, 2, 3])
    np.testing.assert_array_equal(stage.curves["loss"].values, [5, 1, 2])
    assert stage.steps == 3


def test_lines_that_a_full_disk_did_not_take_are_counted(tmp_path):
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 9, "loss": 2.0, "lost_lines": 7}']
    stage = write_lines(tmp_path, *lines)
    assert list(stage.curves) == ["loss"]
    assert stage.faults[0].startswith("metrics.jsonl lacks 7 lines")


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path):
    stage = write_lines(
        tmp_path, '{"step": 1, "loss": NaN}', '{"step": 2, "loss": 2.0, "note": "x"}'
    )
    assert list(stage.curves) == ["loss"]
    np.testing.assert_array_equal(stage.curves["loss"].values, [2])
    assert stage.curves["loss"].lost == 1


def test_time_is_spent_in_steps_and_not_in_pauses(tmp_path):
    # Stopped after step 30, resumed from a checkpoint at step 20.
    lines = [
        json.dumps({"step": step, "time": time, "steps_per_second": 0.5})
        for step, time in [(10, 20.0), (20, 40.0), (30, 60.0), (30, 9e4), (40, 9.1e4)]
    ]
    assert write_lines(tmp_path, *lines).seconds == 100


def test_what_is_missing_is_said(tmp_path):
    faults = write_lines(tmp_path, '{"step": 1, "loss": 3.0}').faults
    assert faults == ("There is no config.json.", "There is no environment.json.")


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(run.RunError, match="not a directory"):
        run.read(tmp_path / "nowhere")
