"""The time that is left of a chain, of stages that ran and of some that did not."""

import json

import pytest

from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.monitor.pace import Left, Pace


def _chain():
    def job(kind, steps, batch=8, data="images", **fields):
        return {
            "seed": 0,
            "model": {"kind": kind},
            "data": {"kind": data, **fields},
            "optimizer": {"learning_rate": 1.0},
            "train": {"steps": steps, "batch": batch},
        }

    stages = {
        "first": job("vqgan", 100),
        "second": job("unitoken", 50, data="sequences", row_length=100),
        "third": job("unitoken", 30, 16, data="sequences", row_length=200),
    }
    node = {"name": "chain", "order": tuple(stages), "stages": stages, "data_dir": "d"}
    return build_experiment(node)


def _write(folder, rows) -> None:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))


def test_stages_that_nothing_is_known_of_are_named(tmp_path) -> None:
    pace = Pace(_chain(), tmp_path, ["first", "second", "third"])
    assert pace.left("first", 40, 0.5) == Left(30.0, 3, ("second", "third"))


def test_a_stage_takes_what_one_of_its_kind_takes(tmp_path) -> None:
    """In proportion to its batch."""
    pace = Pace(_chain(), tmp_path, ["first", "second", "third"])
    pace.left("first", 100, 0.5)
    assert pace.left("second", 20, 2.0) == Left(30 * 2.0 + 30 * 8.0, 2)
    assert pace.left("third", 20, 1.0) == Left(10.0, 1)


@pytest.mark.parametrize("damage", ["", "[1]", '{"step": 10, "st', "[" * 10_000])
def test_an_earlier_start_is_known(tmp_path, damage) -> None:
    rows = [json.dumps({"step": s, "steps_per_second": 0.25}) for s in (5, 10)]
    _write(tmp_path / "third", [*rows, damage])
    pace = Pace(_chain(), tmp_path, ["first", "third"])
    assert pace.left("first", 90, 1.0) == Left(10 + 20 * 4.0, 2)


def test_lines_without_rates_tell_nothing(tmp_path) -> None:
    _write(tmp_path / "third", ["null", '{"step": "x", "steps_per_second": 1.0}'])
    _write(tmp_path / "second", ['{"step": 3, "steps_per_second": -1.0}'])
    pace = Pace(_chain(), tmp_path, ["first", "second", "third"])
    assert pace.left("first", 99, 1.0).unknown == ("second", "third")
