"""Jobs and chains: one schema for both, checked before anything runs."""

import copy

import pytest
from ml_collections import ConfigDict

from unitoken_jax.config import ConfigError
from unitoken_jax.train.job import build_chain

JOB = {
    "seed": 0,
    "model": {"kind": "vqgan"},
    "data": {"kind": "pictures"},
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
    chain = build_chain(ConfigDict(CHAIN))
    assert [chain.stages[name].name for name in chain.order] == ["first", "second"]
    assert chain.stages["second"].init == {"decoder": "first:decoder"}
    assert chain.stages["first"].checkpoint.keep == 2


def test_a_lone_job_is_a_chain_of_one() -> None:
    chain = build_chain(ConfigDict(JOB | {"name": "only", "data_dir": "data"}))
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
        build_chain(ConfigDict(node))
    assert sentence in str(caught.value)


def test_a_lone_job_is_refused_without_the_path_of_a_chain() -> None:
    with pytest.raises(ConfigError, match=r"^config\.train\.step: unknown name"):
        build_chain(ConfigDict(JOB | {"name": "a", "train": {"step": 1}}))
