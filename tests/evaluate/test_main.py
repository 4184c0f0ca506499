"""Evaluating a whole run directory, and what stands in its way."""

import json

import numpy as np
import pytest
from PIL import Image

from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.evaluate.__main__ import run
from unitoken_jax.train.job import build_chain


@pytest.fixture(scope="module")
def evaluated(run_node, workdir):
    return run(build_chain(run_node), workdir)


def test_every_evaluator_leaves_numbers_and_pictures(evaluated, workdir):
    stored = json.loads((workdir / "evaluation.json").read_text())
    assert stored == json.loads(json.dumps(evaluated))
    names = ["reconstruction", "retrieval", "understanding", "generation"]
    assert list(stored)[1:] == names
    for name in names:
        for measure in stored[name]["measures"].values():
            assert np.isfinite(measure["value"])
            assert measure["count"] > 0
    shown = [
        value
        for name in names
        for samples in stored[name]["samples"].values()
        for sample in samples
        for value in sample.values()
        if isinstance(value, str) and value.endswith(".png")
    ]
    assert len(shown) > 6
    for path in shown:
        with Image.open(workdir / path) as picture:
            assert picture.size == (16, 16)
    accuracy = stored["understanding"]["measures"]["accuracy/color"]
    assert (accuracy["baseline"], accuracy["count"]) == (1.0, 5)
    assert stored["reconstruction"]["measures"]["psnr"]["count"] == 6


def test_a_second_run_replaces_the_first_and_finds_the_same(
    evaluated, run_node, workdir
):
    part = {"reconstruction": run_node["evaluation"]["reconstruction"]}
    others = dict.fromkeys(("retrieval", "understanding", "generation"))
    node = run_node | {"evaluation": part | others}
    again = run(build_chain(node), workdir)
    assert again["reconstruction"] == evaluated["reconstruction"]
    left = sorted(p.name for p in (workdir / "evaluation").iterdir())
    assert len(left) == 4
    assert all(name.startswith("reconstruction-pairs") for name in left)
    assert sorted(p.name for p in workdir.iterdir() if p.name.startswith(".")) == []


def test_evaluators_without_their_model_are_left_out(run_node, workdir, tmp_path):
    stages = {"tokenizer": run_node["stages"]["tokenizer"]}
    config = {"reconstruction": {"pictures": 2, "batch": 4, "examples": 1}}
    node = run_node | {"stages": stages, "order": ("tokenizer",), "evaluation": config}
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    assert list(run(build_chain(node), tmp_path)) == ["seconds", "reconstruction"]
    node |= {"evaluation": config | {"retrieval": {"pairs": 2}}}
    with pytest.raises(ConfigError, match="trains a siglip"):
        run(build_chain(node), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": "nowhere"}, "nowhere is not a prepared data set"),
        ({"evaluation": {"retreival": {}}}, "did you mean 'retrieval'"),
        ({"evaluation": {"split": "test"}}, "no split 'test'"),
        ({"evaluation": {"understanding": {"kinds": ("size",)}}}, "no questions"),
        ({"evaluation": {"retrieval": {"without": ("",)}}}, "has no captioned"),
    ],
)
def test_faults_are_sentences(run_node, workdir, changes, message):
    none = dict.fromkeys(("reconstruction", "retrieval", "understanding", "generation"))
    node = run_node | {"evaluation": none} | changes
    with pytest.raises(UserError, match=message):
        run(build_chain(node | {"evaluation": none | node["evaluation"]}), workdir)
