"""Evaluations side by side: what they are of, and how they are called."""

import json
import os
import shutil

import pytest

from unitoken_jax.config import UserError
from unitoken_jax.evaluate import results

OWN = {"evaluation": {"split": "heldout", "retrieval": {"pairs": 8}}, "data_dir": "d"}


def changed(**evaluation):
    return results.changes(
        OWN, OWN | {"evaluation": OWN["evaluation"] | evaluation}
    ), OWN | {"evaluation": OWN["evaluation"] | evaluation}


@pytest.fixture
def stage(tmp_path):
    """A stage with two checkpoints, complete at the second."""
    folder = tmp_path / "run" / "base"
    for step in (5, 10):
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "meta").write_text(f"of {step}")
    (folder / "finished.json").write_text(json.dumps({"steps": 10, "seconds": 1.5}))
    return folder


def test_a_folder_that_cannot_be_written_is_refused_at_once(
    tmp_path, monkeypatch
) -> None:
    results.check_place(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match="is not yours to change"):
        results.check_place(tmp_path)
    monkeypatch.undo()
    (tmp_path / "evaluation").write_text("")
    with pytest.raises(UserError, match="is no folder; remove it or rename it"):
        results.check_place(tmp_path)


def test_a_copy_has_come_to_the_same(stage, tmp_path):
    found = results.digest(stage)
    copy = shutil.copytree(stage, tmp_path / "copy", copy_function=shutil.copyfile)
    assert results.digest(copy) == found
    # Old checkpoints, and those of a complete stage, may go.
    shutil.rmtree(copy / "checkpoints" / "5")
    assert results.digest(copy) == found
    shutil.rmtree(copy / "checkpoints")
    assert results.digest(copy) == found


def test_what_is_trained_on_or_again_is_another(stage):
    found = [results.digest(stage)]
    (stage / "checkpoints" / "12").mkdir()
    (stage / "checkpoints" / "12" / "meta").write_text("of 12")
    found.append(results.digest(stage))
    (stage / "checkpoints" / "12" / "meta").write_text("of 13")
    found.append(results.digest(stage))
    (stage / "finished.json").write_text(json.dumps({"steps": 12, "seconds": 2.5}))
    found.append(results.digest(stage))
    (stage / "finished.json").write_text("[]")
    found.append(results.digest(stage))
    (stage / "finished.json").unlink()
    found.append(results.digest(stage))
    assert len(set(found)) == len(found)


def test_names_say_what_differs():
    assert results.name_of(results.changes(OWN, OWN), OWN) == "default"
    found, config = changed(retrieval={"pairs": 2}, split="test")
    assert found == ["evaluation.split=test", "evaluation.retrieval.pairs=2"]
    assert results.name_of(found, config) == "split=test,retrieval.pairs=2"
    found, config = changed(retrieval=None)
    assert results.name_of(found, config) == "retrieval=None"
    other = OWN | {"data_dir": "e"}
    assert results.name_of(results.changes(OWN, other), other) == "data_dir=e"


def test_names_that_are_shortened_stay_apart():
    names = set()
    for split in ("a/b", "a b", "ä", "x" * 100, "x" * 101, "../../etc", "default"):
        found, config = changed(split=split)
        name = results.name_of(found, config)
        assert len(name) < 90
        assert "/" not in name
        assert name[0] != "."
        names.add(name)
    assert len(names) == 7


def test_a_name_of_another_config_is_refused(tmp_path):
    found, config = changed(split="test")
    subject = results.Subject({}, config)
    for name in ("", "a/b", "..", ".a", "x" * 101, "a\nb"):
        with pytest.raises(UserError, match="is no name"):
            results.check_name(tmp_path, name, found, subject)
    with pytest.raises(UserError, match="is the evaluation by the run's own config"):
        results.check_name(tmp_path, "default", found, subject)
    results.check_name(tmp_path, "mine", found, subject)
    results.write(tmp_path, "mine", results.describe("mine", found, subject))
    results.check_name(tmp_path, "mine", found, subject)
    with pytest.raises(UserError, match="evaluation with another config"):
        results.check_name(tmp_path, "mine", [], results.Subject({}, OWN))


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_a_damaged_evaluation_is_none(tmp_path, content):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "default.json").write_text(content)
    assert results.read(tmp_path) is None
