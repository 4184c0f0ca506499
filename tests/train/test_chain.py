"""Chains: order, resuming at the right stage, stages alone, codes between them."""

import contextlib
import dataclasses
import json
import shutil
import signal
from pathlib import Path

import jax
import miniature
import numpy as np
import pytest

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint.manager import CheckpointConfig
from unitoken_jax.config import UserError
from unitoken_jax.runtime import processes
from unitoken_jax.train import chain as chains
from unitoken_jax.train import preflight, stage
from unitoken_jax.train.components import StageComponents
from unitoken_jax.train.config import CodesConfig, ExperimentConfig

TRAIN = {"steps": 2, "batch": 8, "log_every": 1}
DATA = {"kind": "noise", "stride": 8}


class StageBuilder:
    """Makes miniature parts, and writes down what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def check_data(self, job, at, data_dir):
        pass

    def build(self, job, at, data_dir):
        self.calls.append((job.name, at, str(data_dir)))
        batches = miniature.Batches()
        return StageComponents(miniature.system(), batches)

    def tokenize(self, tokenizer, directory, data_dir):
        self.calls.append(("tokenize", tokenizer.name, directory.name, str(data_dir)))
        return Path("coded")


def _chain(**changes) -> ExperimentConfig:
    first = miniature.job("first", train=TRAIN, data=DATA)
    second = miniature.job("second", train=TRAIN, init={"second": "first:first"})
    second = dataclasses.replace(second, codes=CodesConfig("first"))
    stages = {"first": first, "second": second} | changes
    return ExperimentConfig("pair", ("first", "second"), stages, "raw")


def test_runs_in_order_and_then_has_nothing_to_do(tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    builder = StageBuilder()
    assert chains.run(_chain(), tmp_path, builder)
    assert builder.calls == [
        ("first", "config.stages.first", "raw"),
        ("tokenize", "first", "first", "raw"),
        ("second", "config.stages.second", "coded"),
    ]
    params, _ = checkpoints.restore_params(tmp_path / "first", "first")
    log = (tmp_path / "second" / "log.txt").read_text()
    assert "second: 1 arrays, 256 parameters, from first of" in log

    builder = StageBuilder()
    assert chains.run(_chain(), tmp_path, builder)
    assert builder.calls == []
    assert "stage first is complete (2 steps)" in caplog.text
    assert "has changed" not in caplog.text

    guard = miniature.job("first", train=TRAIN, data=DATA, guard={"limit": 3})
    chains.run(_chain(first=guard), tmp_path, StageBuilder())
    assert "config of stage first has changed since it was trained (guard)" in (
        caplog.text
    )
    data = DATA | {"stride": 4}
    other = miniature.job("first", train=TRAIN, data=data)
    chains.run(_chain(first=other), tmp_path, StageBuilder())
    assert "has changed since it was trained (data)" in caplog.text
    again, _ = checkpoints.restore_params(tmp_path / "first", "first")
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_going_back_names_the_stage_and_takes_its_end_back(tmp_path) -> None:
    chain, builder = _chain(), StageBuilder()
    with pytest.raises(UserError, match=r"--restore_step=1 needs the --stage whose"):
        chains.run(chain, tmp_path, builder, restore_step=1)
    saving = CheckpointConfig(every=1, keep=9)
    first = dataclasses.replace(chain.stages["first"], checkpoint=saving)
    chain = _chain(first=first)
    chains.run(chain, tmp_path, builder, only="first")
    finished = tmp_path / "first" / "finished.json"
    before = checkpoints.steps(tmp_path / "first" / "checkpoints")[0]
    with pytest.raises(UserError, match=r"--restore_step=9: .* is not there"):
        chains.run(chain, tmp_path, builder, only="first", restore_step=9)
    ended = finished.stat().st_mtime_ns
    chains.run(chain, tmp_path, builder, only="first", restore_step=before)
    assert finished.stat().st_mtime_ns > ended
    assert checkpoints.steps(tmp_path / "first" / "checkpoints")[-1] == 2


def _saves_every_step(name: str, **changes):
    saving = CheckpointConfig(every=1, keep=9)
    return dataclasses.replace(_chain().stages[name], checkpoint=saving, **changes)


def test_what_began_from_a_stage_that_went_back_is_said(tmp_path, caplog) -> None:
    """Later stages keep what they have, each start says so, and one can go back too."""
    caplog.set_level("INFO")
    chain = _chain(first=_saves_every_step("first"), second=_saves_every_step("second"))
    assert chains.run(chain, tmp_path, StageBuilder())
    second = checkpoints.newest_mark(tmp_path / "second")
    caplog.clear()
    chains.run(chain, tmp_path, StageBuilder(), only="first", restore_step=1)
    assert "stays as it is (second); to train it again from what" in caplog.text
    assert str(tmp_path / "second") in caplog.text
    assert stage.is_finished(tmp_path / "first", 2)
    assert checkpoints.newest_mark(tmp_path / "second") == second
    kept = tmp_path / "first" / "checkpoints-abandoned"
    assert [path.name for path in kept.iterdir()] == ["2"]

    again = "stage second began from another first than there is now"
    for _ in range(2):
        caplog.clear()
        assert chains.run(chain, tmp_path, StageBuilder())
        assert f"{again}; to train it again, remove" in caplog.text
    caplog.clear()
    chains.run(chain, tmp_path, StageBuilder(), only="second", restore_step=1)
    log = (tmp_path / "second" / "log.txt").read_text()
    assert f"{again}, and goes on with what it has" in log
    assert stage.is_finished(tmp_path / "second", 2)
    caplog.clear()
    assert chains.run(chain, tmp_path, StageBuilder())  # it still began from the other
    assert again in caplog.text

    shutil.rmtree(tmp_path / "second")
    assert chains.run(chain, tmp_path, StageBuilder())
    caplog.clear()
    assert chains.run(chain, tmp_path, StageBuilder())
    assert "began from another" not in caplog.text


@pytest.mark.parametrize("step", [-1, 7, 10**30])
@pytest.mark.parametrize("exists", [True, False])
def test_there_is_no_going_back_to_what_is_not_there(tmp_path, step, exists) -> None:
    chain = _chain(first=_saves_every_step("first"))
    run = tmp_path / "run"
    if exists:
        chains.run(chain, run, StageBuilder(), only="first")
    before = sorted(tmp_path.rglob("*"))
    there = "2" if exists else "none"
    said = rf"--restore_step={step}: .* is not there in .*There are: .*{there}\."
    with pytest.raises(UserError, match=said):
        chains.run(chain, run, StageBuilder(), only="first", restore_step=step)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", ["[]", "2", '{"steps": true}', "[" * 10**5, "\xff"])
def test_a_damaged_mark_of_the_end_is_none(tmp_path, content) -> None:
    chain = _chain(first=_saves_every_step("first"))
    chains.run(chain, tmp_path, StageBuilder(), only="first")
    (tmp_path / "first" / "finished.json").write_text(content, "latin-1")
    (tmp_path / "first" / "config.json").write_text(content, "latin-1")
    assert not stage.is_finished(tmp_path / "first", 2)
    chains.run(chain, tmp_path, StageBuilder(), only="first")
    assert stage.is_finished(tmp_path / "first", 2)
    (tmp_path / "first" / "config.json").write_text(content, "latin-1")
    chains.run(chain, tmp_path, StageBuilder(), only="first")


class Terminated(miniature.Batches):
    """Sends SIGTERM to this process with the last batch of a stage."""

    def __next__(self):
        if self.index == TRAIN["steps"] - 1:
            signal.raise_signal(signal.SIGTERM)
        return super().__next__()


def test_a_signal_at_the_last_step_of_a_stage_ends_the_chain(
    tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(miniature, "Batches", Terminated)
    for name in ("first", "second"):
        assert not chains.run(_chain(), tmp_path, StageBuilder())
        assert f"SIGTERM: stage {name} has saved step 2 of 2" in caplog.text
        assert stage.is_finished(tmp_path / name, 2)
        assert (tmp_path / "second").exists() == (name == "second")
    assert chains.run(_chain(), tmp_path, StageBuilder())


def test_fields_that_there_were_not_yet_have_not_changed(tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    first = miniature.job("first", train=TRAIN)
    assert chains.run(_chain(first=first), tmp_path, StageBuilder())
    path = tmp_path / "first" / "config.json"
    written = json.loads(path.read_text())
    assert written["data"].pop("stride") == 8
    assert written["train"].pop("ema") == 0
    assert written.pop("alarms")
    path.write_text(json.dumps(written))
    for width, has_changed in ((16, False), (9, True)):
        caplog.clear()
        model = miniature.NetworkConfig(width)
        job = dataclasses.replace(first, model=model)
        chains._warn_of_changes(job, tmp_path / "first")
        assert ("has changed" in caplog.text) == has_changed


def test_one_stage_alone_needs_what_it_starts_from(tmp_path) -> None:
    with pytest.raises(UserError, match="--stage: no stage 'secnd'; did you mean"):
        chains.run(_chain(), tmp_path, StageBuilder(), only="secnd")
    with pytest.raises(UserError, match="run --stage=first first, or the whole chain"):
        chains.run(_chain(), tmp_path, StageBuilder(), only="second")
    assert not chains.run(_chain(), tmp_path, StageBuilder(), only="first")
    assert chains.run(_chain(), tmp_path, StageBuilder(), only="second")


def test_the_first_process_says_what_is_complete(tmp_path, monkeypatch) -> None:
    """The others may see the files of a shared directory sooner or later than it."""
    assert not chains.run(_chain(), tmp_path, StageBuilder(), only="first")
    monkeypatch.setattr(processes, "gather", lambda values: np.asarray([[0], values]))
    with pytest.raises(UserError, match="run --stage=first first"):
        chains.run(_chain(), tmp_path, StageBuilder(), only="second")


def _check(chain: ExperimentConfig) -> None:
    preflight.check_models(chain)


def test_a_stage_starts_from_earlier_ones_only(tmp_path) -> None:
    first = miniature.job("first", train=TRAIN, init={"first": "second:first"})
    with pytest.raises(UserError, match="starts from 'second', which does not come"):
        _check(_chain(first=first))
    first = miniature.job("first", train=TRAIN, init={"first": "elsewhere:first"})
    with pytest.raises(UserError, match="names neither a stage nor a directory"):
        chains.run(_chain(first=first), tmp_path, StageBuilder())
    second = miniature.job("second", train=TRAIN, codes={"stage": "frist"})
    chain = _chain(second=second)
    with pytest.raises(UserError, match=r"starts from 'frist'.*did you mean 'first'"):
        _check(chain)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.stat()
        found[str(path.relative_to(folder))] = (info.st_mtime_ns, info.st_size)
    return found


def test_a_refused_resume_touches_nothing(tmp_path) -> None:
    """Neither with fewer steps than there are, nor with another model."""
    first = miniature.job("first", train=TRAIN)
    chain = ExperimentConfig("one", ("first",), {"first": first}, "raw")
    assert chains.run(chain, tmp_path, StageBuilder())
    before = _files(tmp_path)
    begun = []

    @contextlib.contextmanager
    def begin():
        begun.append(1)
        yield

    shorter = dataclasses.replace(
        first, train=dataclasses.replace(first.train, steps=1)
    )
    shorter = dataclasses.replace(chain, stages={"first": shorter})
    with pytest.raises(UserError, match="of step 2; set it to 2 or more"):
        chains.run(shorter, tmp_path, StageBuilder(), begin=begin)
    longer = dataclasses.replace(first, train=dataclasses.replace(first.train, steps=3))
    wider = dataclasses.replace(longer, model=miniature.NetworkConfig(9))
    wider = dataclasses.replace(chain, stages={"first": wider})
    with pytest.raises(UserError, match="made with another config"):
        chains.run(wider, tmp_path, StageBuilder(), begin=begin)
    assert _files(tmp_path) == before
    assert not begun
