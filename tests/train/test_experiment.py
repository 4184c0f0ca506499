"""Jobs and chains: one schema for both, checked before anything runs."""

import copy

import pytest
from ml_collections import ConfigDict

from unitoken_jax.config import ConfigError
from unitoken_jax.train.experiment import (
    CONFIG,
    build_experiment,
    experiment_of,
    write_config,
)

JOB = {
    "seed": 0,
    "model": {"kind": "vqgan"},
    "data": {"kind": "images"},
    "optimizer": {"learning_rate": 1e-3},
    "train": {"steps": 10, "batch": 8},
}
CHAIN = {
    "name": "two",
    "data_dir": "data",
    "order": ("first", "second"),
    "stages": {"first": JOB, "second": JOB | {"init": {"decoder": "first:decoder"}}},
}


def test_stages_take_the_name_of_their_key() -> None:
    chain = build_experiment(ConfigDict(CHAIN))
    assert [chain.stages[name].name for name in chain.order] == ["first", "second"]
    assert chain.stages["second"].init == {"decoder": "first:decoder"}
    assert chain.stages["first"].checkpoint.keep == 2


def test_a_lone_job_is_a_chain_of_one() -> None:
    chain = build_experiment(ConfigDict(JOB | {"name": "only", "data_dir": "data"}))
    assert (chain.name, chain.order, list(chain.stages)) == (
        "only",
        ("only",),
        ["only"],
    )
    assert chain.data_dir == "data"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("order", ("first", "secnd"), "no stage 'secnd'; did you mean 'second'?"),
        ("order", ("first",), "config.stages.second: not named in config.order"),
        ("stages.firt", {}, "config.stages.firt: not named in config.order; did you"),
        ("stages.first.name", "other", "'other' is not the stage's name"),
        ("stages.first.trian", {}, "config.stages.first.trian: unknown name; did you"),
        ("stages.first.train.steps", 0, "config.stages.first.train: steps must be"),
        ("stages.first.train.microbatches", 3, "batch of 8 does not divide into 3"),
        ("stages.first.checkpoint", {"keep": 0}, "keep must be at least 1"),
        ("stages.first.guard", {"spike_factor": 0.1}, "spike_factor must exceed 1"),
        ("stages.first.optimizer.groups", {"a": {"pattern": "("}}, "groups.a: pattern"),
        ("stages.first.seed", -1, "config.stages.first.seed: must be at least 0"),
        ("stages.first.seed", 2**32, "first.seed: must be at least 0 and at most 42"),
        ("stages.first.train.profile_steps", -1, "train.profile_steps: must be at"),
        ("stages.first.checkpoint", {"keep_every": -1000}, "keep_every: must be at"),
        ("stages.first.optimizer.no_decay", "(", "no_decay '(' is no expression"),
        ("stages.first.optimizer.clip", float("nan"), "optimizer.clip: must be above"),
        ("stages.first.init", {"a": "gs://b/run:a"}, "gs:// is no path of a file"),
        ("stages.first.watchdog", {"seconds": 1e12}, "watchdog.seconds: must be at"),
        ("data_dir", "gs://bucket/data", "config.data_dir=gs://bucket/data: gs:// is"),
        ("data_dir", "", "config.data_dir is an empty path"),
        ("stages.first.mesh", {"fdsp": 2}, "mesh.fdsp: unknown name; did you mean"),
    ],
)
def test_refuses_in_a_sentence(path, value, sentence) -> None:
    node = copy.deepcopy(CHAIN)
    *parents, last = path.split(".")
    inner = node
    for name in parents:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(ConfigError) as caught:
        build_experiment(ConfigDict(node))
    assert sentence in str(caught.value)


def test_a_lone_job_is_refused_without_the_path_of_a_chain() -> None:
    with pytest.raises(ConfigError, match=r"^config\.train\.step: unknown name"):
        build_experiment(ConfigDict(JOB | {"name": "a", "train": {"step": 1}}))


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", "codes", "log.txt"])
def test_stages_have_names_that_a_folder_can_have(name) -> None:
    node = CHAIN | {"order": (name,), "stages": {name: JOB}}
    with pytest.raises(ConfigError, match="name"):
        build_experiment(node)


def test_groups_that_may_be_none_are_left_at_their_defaults() -> None:
    nothing = dict.fromkeys(
        ("codes", "init", "frozen_models", "discriminator", "tpu_options")
    )
    groups = JOB["optimizer"] | {"groups": None, "clip": None}
    job = JOB | nothing | {"optimizer": groups}
    chain = build_experiment(CHAIN | {"order": ("first",), "stages": {"first": job}})
    first = chain.stages["first"]
    assert (first.codes, first.discriminator) == (None, None)
    assert first.init == first.frozen_models == first.tpu_options == {}
    assert first.optimizer.groups["all"].pattern == ".*"
    with pytest.raises(ConfigError, match="guard: expected a group of fields, found N"):
        build_experiment(
            CHAIN | {"order": ("a",), "stages": {"a": JOB | {"guard": None}}}
        )


def test_a_run_knows_its_config(tmp_path, monkeypatch) -> None:
    """As it was written, with what the command line sets of it."""
    lone = JOB | {"name": "only", "data_dir": "data", "generation": {"lead": (1, 2)}}
    write_config(tmp_path, lone)
    assert experiment_of(None, tmp_path) == build_experiment(lone)
    assert experiment_of(lone | {"data_dir": "other"}, tmp_path).data_dir == "other"
    monkeypatch.setattr(
        "unitoken_jax.train.experiment.overrides", lambda: [("train.steps", "11")]
    )
    assert experiment_of(None, tmp_path).stages["only"].train.steps == 11
    write_config(tmp_path, build_experiment(CHAIN))
    monkeypatch.undo()
    assert experiment_of(None, tmp_path) == build_experiment(CHAIN)


def test_an_old_run_is_read_with_the_names_of_today(tmp_path, caplog) -> None:
    old = JOB | {"name": "only", "data_dir": "data"}
    model = {"kind": "unitoken", "decoder": {"products": "int8"}}
    write_config(tmp_path, old | {"model": model})
    with caplog.at_level("INFO"):
        chain = experiment_of(None, tmp_path)
    assert chain.stages["only"].model.decoder.quantization == "int8"
    assert len(caplog.records) == 1
    assert "today's names: model.decoder.products → quantization" in caplog.text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no config.json, in which a run keeps its config"),
        (b"{", "config.json is damaged (not JSON"),
        (b"", "config.json is damaged"),
        (b"[1]", "config.json holds no config"),
        (b'{"name": NaN}', "config.json is damaged (NaN"),
        (b"{}", "config.name: missing"),
    ],
)
def test_a_run_that_does_not_is_a_sentence(tmp_path, content, sentence) -> None:
    if content is not None:
        (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        experiment_of(None, tmp_path)
    assert sentence in str(caught.value)
