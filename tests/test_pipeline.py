"""One experiment from its config to its report: checked, then trained, then told."""

import json
import logging
import shutil

import pytest
import tiny_chain

from unitoken_jax import pipeline
from unitoken_jax.config import ConfigError, UserError, plain
from unitoken_jax.train.experiment import build_experiment, experiment_of


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> dict:
    """An experiment of one tokenizer that is not evaluated."""
    directory = tmp_path_factory.mktemp("pipeline") / "data"
    chain = plain(tiny_chain.get_config(directory, tiny_chain.make_data(directory), 2))
    stages = {"tokenizer": chain["stages"]["tokenizer"]}
    return chain | {"order": ("tokenizer",), "stages": stages, "finish": False}


@pytest.fixture(scope="module")
def workdir(node, tmp_path_factory):
    """Its run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert pipeline.train(build_experiment(node), path, written=node)
    return path


def test_a_run_keeps_its_config_as_it_was_written(node, workdir) -> None:
    kept = json.loads((workdir / "config.json").read_text())
    assert "seed" not in kept["stages"]["tokenizer"]["data"]
    assert "split" not in kept["stages"]["tokenizer"]["data"]
    assert experiment_of(None, workdir) == build_experiment(node)
    assert (workdir / "log.txt").exists()
    assert (workdir / "tokenizer" / "finished.json").exists()


def test_without_what_was_written_it_keeps_all_fields(node, workdir, tmp_path) -> None:
    shutil.copytree(workdir, tmp_path / "run")
    experiment = build_experiment(node)
    assert pipeline.train(experiment, tmp_path / "run", only="tokenizer")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["stages"]["tokenizer"]["model"]["kind"] == "vqgan"
    assert kept["stages"]["tokenizer"]["data"]["split"] == "train"
    assert kept["evaluation"]["zero_shot"] == "auto"
    assert experiment_of(None, tmp_path / "run") == experiment


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("stages.tokenizer.data.image_size", 13, "must be a multiple of"),
        ("stages.tokenizer.model.num_groups", 3, "widths of all levels"),
        ("stages.tokenizer.data.views", {}, "data of kind 'images' does not have it"),
        (
            "stages.tokenizer.model.decoder",
            {},
            "model of kind 'vqgan' does not have it",
        ),
        ("evaluation.reconstruction.imags", 1, "did you mean 'images'"),
        ("generation.guidence", 1.0, "did you mean 'guidance'"),
        ("generation.model", "tokenizer", "trains a vqgan"),
    ],
)
def test_all_is_checked_before_anything_is_written(
    node, tmp_path, path, value, sentence
) -> None:
    changed = json.loads(json.dumps(node))
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    with pytest.raises(ConfigError, match=sentence) as caught:
        pipeline.train(build_experiment(changed), tmp_path / "run")
    assert str(caught.value).startswith(f"config.{'.'.join(parents)}")
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_complete_trains_nothing(node, workdir) -> None:
    log = (workdir / "log.txt").read_text()
    before = (workdir / "tokenizer" / "metrics.jsonl").read_bytes()
    assert pipeline.train(build_experiment(node), workdir, written=node)
    assert (workdir / "tokenizer" / "metrics.jsonl").read_bytes() == before
    added = (workdir / "log.txt").read_text().removeprefix(log)
    assert "stage tokenizer is complete (2 steps)" in added
    assert "has changed" not in added


def test_a_complete_run_is_evaluated_and_told(node, workdir, monkeypatch) -> None:
    calls = []

    def evaluate(experiment, workdir, *, resume):
        calls.append(("evaluate", resume))

    def build(workdir):
        calls.append(("report", workdir.name))
        raise OSError(28, "No space left on device", "page")

    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    monkeypatch.setattr(pipeline.page, "build", build)
    finishing = node | {"finish": True}
    assert pipeline.train(build_experiment(finishing), workdir, written=finishing)
    assert calls == [("evaluate", True), ("report", "run")]
    calls.clear()
    pipeline.train(build_experiment(finishing), workdir, only="tokenizer")
    assert not calls


@pytest.mark.slow
def test_a_step_is_replayed(node, workdir, caplog) -> None:
    caplog.set_level(logging.INFO)
    finding = pipeline.replay(build_experiment(node), workdir, 2)
    assert (finding.step, dict(finding.origins)) == (2, {})
    assert "everything in this step is finite" in caplog.text
    with pytest.raises(UserError, match="has steps 1 to 2"):
        pipeline.replay(build_experiment(node), workdir, 3)
