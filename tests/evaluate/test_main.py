"""Evaluating a whole run directory, and what stands in its way."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from launch.sweep.experiment import evaluate
from unitoken_jax import convert
from unitoken_jax.config import ConfigError, UserError, build
from unitoken_jax.evaluate.__main__ import compare_folders, evaluators, run
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.models import registry
from unitoken_jax.models.stlpips import StLpips, StLpipsConfig
from unitoken_jax.train.job import build_chain

EVALUATORS = (
    *("reconstruction", "retrieval", "zero_shot"),
    *("understanding", "generation", "perception"),
)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """Weights of a tiny AlexNet in the published layout."""
    module = StLpips(StLpipsConfig(widths=(4, 4, 8, 8, 8)))
    picture = jnp.zeros((1, 16, 16, 3))
    params = module.init(jax.random.key(0), picture, picture)["params"]
    path = tmp_path_factory.mktemp("weights") / "alexnet"
    convert.save("stlpips", module, registry.unboxed(params), path)
    return path


@pytest.fixture(scope="module")
def evaluated(run_node, workdir):
    return run(build_chain(run_node), workdir)


def test_every_evaluator_leaves_numbers_and_pictures(evaluated, workdir):
    stored = json.loads((workdir / "evaluation.json").read_text())
    assert stored == json.loads(json.dumps(evaluated))
    names = ["reconstruction", "retrieval", "zero_shot", "understanding", "generation"]
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
    bits = stored["understanding"]["measures"]["bits_per_answer/color"]
    # Always "red": with one more for the unknown its frequency is 24 of 25.
    assert bits["baseline"] == pytest.approx(np.log2(25 / 24))
    assert bits["low"] <= bits["value"] <= bits["high"]
    assert stored["reconstruction"]["measures"]["psnr"]["count"] == 6


def test_a_second_run_replaces_the_first_and_finds_the_same(
    evaluated, run_node, workdir
):
    part = {"reconstruction": run_node["evaluation"]["reconstruction"]}
    node = run_node | {"evaluation": dict.fromkeys(EVALUATORS) | part}
    again = run(build_chain(node), workdir)
    assert again["reconstruction"] == evaluated["reconstruction"]
    left = sorted(p.name for p in (workdir / "evaluation").iterdir())
    assert len(left) == 4
    assert all(name.startswith("reconstruction-pairs") for name in left)
    assert sorted(p.name for p in workdir.iterdir() if p.name.startswith(".")) == []


def test_evaluators_without_their_model_are_left_out(run_node, workdir, tmp_path):
    stages = {"tokenizer": run_node["stages"]["tokenizer"]}
    config = {"reconstruction": {"pictures": 2, "batch": 4, "examples": 1}}
    config |= {"perception": {"alexnet": ""}}
    node = run_node | {"stages": stages, "order": ("tokenizer",), "evaluation": config}
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    assert list(run(build_chain(node), tmp_path)) == ["seconds", "reconstruction"]
    node |= {"evaluation": config | {"retrieval": {"pairs": 2}}}
    with pytest.raises(ConfigError, match="trains a siglip"):
        run(build_chain(node), tmp_path)


def names(config, *fields):
    """Evaluators that run for a config."""
    chain = build_chain(evaluate(config, fields))
    found = build(EvaluationConfig, chain.evaluation, "config.evaluation")
    return {name for name, _ in evaluators(chain, found, cast(Any, None))}


def test_tokenizers_without_captions_are_not_asked_for_any():
    drawn = {"reconstruction", "classes"}
    assert names("configs/llamagen_pictures.py") == drawn
    spoken = {"reconstruction", "understanding", "generation"}
    assert names("configs/unitok_mllm_pictures.py") == spoken
    config = "configs/unitok_pictures.py"
    seen = {"reconstruction", "perception", "retrieval"}
    assert names(config) == seen | {"zero_shot"}
    alone = "stages.tokenizer.model.objective.supervision=reconstruction"
    assert names(config, alone) == seen  # retrieval is named, as the chance level


def test_reconstructions_and_drawings_are_shown_to_another_network(
    run_node, workdir, alexnet
):
    parts = {
        "generation": run_node["evaluation"]["generation"],
        "perception": {
            "alexnet": str(alexnet),
            "pictures": 8,
            "distribution": {"batch": 4, "neighbours": 1, "resamples": 4},
        },
    }
    node = run_node | {"evaluation": dict.fromkeys(EVALUATORS) | parts}
    found = run(build_chain(node), workdir)["perception"]["measures"]
    counts = {key: measure["count"] for key, measure in found.items()}
    names = [f"{name}_alexnet" for name in ("frechet", "kernel", "precision", "recall")]
    assert counts == (
        {"reconstructions/stlpips_alexnet": 8}
        | {f"reconstructions/{name}": 8 for name in names}
        # Recall counts the real pictures, of which there are more than drawings.
        | {f"drawings/{name}": 8 if "recall" in name else 3 for name in names}
    )


def test_two_folders_are_compared(tmp_path, alexnet, capsys):
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        (tmp_path / side).mkdir()
        for i in range(5):
            pixels = rng.integers(0, 256, (20, 18 + i, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / f"{i}.png")
    given = SimpleNamespace(
        real=str(tmp_path / "real"),
        generated=str(tmp_path / "generated"),
        alexnet=str(alexnet),
        inception="",
        lpips="",
        preprocess="centre_crop",
        size=16,
        batch=4,
        keep=True,
        output=str(tmp_path / "found.json"),
    )
    found = compare_folders(given)
    assert list(found) == [
        *("frechet_alexnet", "kernel_alexnet", "precision_alexnet", "recall_alexnet"),
        "stlpips_alexnet",
    ]
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["frechet_alexnet"]["value"] == found["frechet_alexnet"].value
    assert "frechet_alexnet" in capsys.readouterr().out
    given.generated = given.real
    same = compare_folders(given)
    assert same["frechet_alexnet"].value < 1e-6
    assert same["stlpips_alexnet"].value < 1e-6
    given.preprocess = "none"
    with pytest.raises(UserError, match="choose a preprocessing"):
        compare_folders(given)
    given.alexnet = ""
    with pytest.raises(UserError, match="needs a network's weights"):
        compare_folders(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--real=a", "--generated=b"], "a is not a directory"),
    ],
)
def test_the_command_says_what_it_needs(arguments, message):
    command = [sys.executable, "-m", "unitoken_jax.evaluate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": "nowhere"}, "nowhere is not a prepared data set"),
        ({"evaluation": {"retreival": {}}}, "did you mean 'retrieval'"),
        ({"evaluation": {"split": "test"}}, "no split 'test'"),
        ({"evaluation": {"understanding": {"kinds": ("size",)}}}, "no questions"),
        ({"evaluation": {"retrieval": {"without": ("",)}}}, "has no captioned"),
        ({"evaluation": {"zero_shot": {"without": ("",)}}}, "has no classes"),
        ({"evaluation": {"zero_shot": {"templates": ("a cat",)}}}, r"have \{\} once"),
        ({"evaluation": {"perception": {"inception": "none.pth"}}}, "does not exist"),
    ],
)
def test_faults_are_sentences(run_node, workdir, changes, message):
    none = dict.fromkeys(EVALUATORS)
    node = run_node | {"evaluation": none} | changes
    with pytest.raises(UserError, match=message):
        run(build_chain(node | {"evaluation": none | node["evaluation"]}), workdir)
