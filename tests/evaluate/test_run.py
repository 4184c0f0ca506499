"""Evaluating a whole run directory, and what stands in its way."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import Split, write_split
from launch.sweep.experiment import evaluate
from unitoken_jax.config import UserError
from unitoken_jax.errors import REFUSED
from unitoken_jax.evaluate import reconstruction, results
from unitoken_jax.evaluate.retrieval import Retrieval
from unitoken_jax.evaluate.run import EvaluationError, evaluators, run
from unitoken_jax.train.experiment import build_experiment

EVALUATORS = (
    *("reconstruction", "retrieval", "zero_shot"),
    *("understanding", "generation", "perception"),
)


@pytest.fixture(scope="module")
def evaluated(run_node, workdir):
    return run(build_experiment(run_node), workdir)


def test_every_evaluator_leaves_numbers_and_pictures(evaluated, workdir):
    stored = results.read(workdir)
    assert stored == json.loads(json.dumps(evaluated))
    names = ["reconstruction", "retrieval", "zero_shot", "understanding", "generation"]
    assert list(stored) == ["seconds", "of", *names]
    assert stored["of"]["changes"] == []
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


def test_another_config_stands_beside_the_runs_own(evaluated, run_node, workdir):
    own = snapshot(workdir / "evaluation", "default")
    part = {"reconstruction": run_node["evaluation"]["reconstruction"]}
    node = run_node | {"evaluation": dict.fromkeys(EVALUATORS) | part}
    other = run(build_experiment(node), workdir, "other")
    assert (
        other["reconstruction"]["measures"] == evaluated["reconstruction"]["measures"]
    )
    assert "evaluation.understanding=None" in other["of"]["changes"]
    shown = other["reconstruction"]["samples"]["pairs"][0]["original"]
    assert shown.startswith("evaluation/other/")
    assert (workdir / shown).is_file()
    evaluation = run_node["evaluation"] | dict.fromkeys(EVALUATORS[1:])
    evaluation["reconstruction"] = {"images": 2, "batch": 4, "examples": 1}
    run(build_experiment(run_node | {"evaluation": evaluation}), workdir)
    assert snapshot(workdir / "evaluation", "default") == own
    names = {path.stem for path in (workdir / "evaluation").glob("*.json")}
    assert {"default", "other"} < names
    (made,) = (name for name in names if name.startswith("reconstruction.images=2"))
    assert (
        results.read(workdir, made)["reconstruction"]["measures"]["psnr"]["count"] == 2
    )
    assert not list((workdir / "evaluation").glob(".*"))
    with pytest.raises(UserError, match="with another config"):
        run(build_experiment(run_node), workdir, "other")
    with pytest.raises(UserError, match="is the evaluation by the run's own config"):
        run(build_experiment(node), workdir, "default")


def snapshot(folder, name):
    """Return what is in an evaluation's file and folder."""
    paths = [folder / f"{name}.json", *sorted((folder / name).iterdir())]
    return {path.name: path.read_bytes() for path in paths}


def test_the_runs_own_config_is_the_one_it_was_trained_with(
    run_node, workdir, tmp_path
):
    for name in ("tokenizer", "siglip", "model"):
        (tmp_path / name).symlink_to(workdir / name)
    (tmp_path / "config.json").write_text(json.dumps(run_node))
    few = {"reconstruction": {"images": 2, "batch": 4, "examples": 1}}
    node = run_node | {"evaluation": dict.fromkeys(EVALUATORS) | few}
    found = run(build_experiment(node), tmp_path)
    assert found["of"]["name"].startswith("reconstruction.images=2,")
    assert results.read(tmp_path) is None


def test_what_earlier_versions_have_found_is_not_replaced_by_less(
    run_node, workdir, tmp_path
):
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    stages = {"tokenizer": run_node["stages"]["tokenizer"]}
    few = {"reconstruction": {"images": 2, "batch": 4}, "perception": None}
    node = run_node | {"stages": stages, "order": ("tokenizer",), "evaluation": few}
    measure = {"measures": {"accuracy/all": {"value": 0.5, "count": 9}}, "samples": {}}
    earlier = {"seconds": 1, "understanding": measure}
    (tmp_path / "evaluation.json").write_text(json.dumps(earlier))
    found = run(build_experiment(node), tmp_path)
    assert found["of"]["changes"] == ["evaluation.understanding=None"]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == earlier
    earlier["reconstruction"] = earlier.pop("understanding")
    (tmp_path / "evaluation.json").write_text(json.dumps(earlier))
    assert run(build_experiment(node), tmp_path)["of"]["name"] == "default"


def test_evaluators_without_their_model_are_left_out(run_node, workdir, tmp_path):
    stages = {"tokenizer": run_node["stages"]["tokenizer"]}
    config = {"reconstruction": {"images": 2, "batch": 4, "examples": 1}}
    config |= {"perception": {"alexnet": ""}}
    node = run_node | {"stages": stages, "order": ("tokenizer",), "evaluation": config}
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    assert list(run(build_experiment(node), tmp_path)) == [
        "seconds",
        "of",
        "reconstruction",
    ]
    node |= {"evaluation": config | {"retrieval": {"pairs": 2}}}
    with pytest.raises(UserError, match=r"1 of 2 parts failed.*trains a siglip"):
        run(build_experiment(node), tmp_path)


def test_a_part_that_fails_leaves_the_others_and_is_done_again(
    run_node, workdir, tmp_path, monkeypatch
):
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    (tmp_path / "siglip").symlink_to(workdir / "siglip")
    stages = {name: run_node["stages"][name] for name in ("tokenizer", "siglip")}
    parts = ("reconstruction", "retrieval")
    evaluation = {part: run_node["evaluation"][part] for part in parts}
    evaluation |= {"perception": None, "zero_shot": None}
    node = run_node | {"stages": stages, "order": tuple(stages)}
    chain = build_experiment(node | {"evaluation": evaluation})

    def fail(*_):
        raise MemoryError("no room\nfor it")

    with monkeypatch.context() as patch:
        patch.setattr(Retrieval, "run", fail)
        with pytest.raises(EvaluationError, match="retrieval: MemoryError: no room"):
            run(chain, tmp_path)
    stored = results.read(tmp_path)
    assert stored["retrieval"] == {"error": "MemoryError: no room"}
    shown = stored["reconstruction"]["samples"]["pairs"][0]["original"]
    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "evaluate", fail)  # it is not measured again
        again = run(chain, tmp_path, resume=True)
        path = tmp_path / "evaluation" / "default.json"
        before = path.stat().st_mtime_ns
        run(chain, tmp_path, resume=True)
        assert path.stat().st_mtime_ns == before
        assert again["reconstruction"] == stored["reconstruction"]
        assert again["retrieval"]["measures"]["image_to_text/recall@1"]["count"] == 8
        # Measured anew, what fails keeps what was found of the same stages.
        with pytest.raises(EvaluationError, match="1 of 3 parts failed"):
            run(chain, tmp_path)
    assert results.read(tmp_path)["reconstruction"] == stored["reconstruction"]
    assert (tmp_path / shown).is_file()
    # A copy says the same of the same stages.
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy, ignore=lambda *_: ["copy"])
    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "evaluate", fail)
        run(chain, copy, resume=True)


def test_numbers_are_kept_without_room_for_pictures(
    run_node, workdir, tmp_path, monkeypatch, caplog
):
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    stages = {"tokenizer": run_node["stages"]["tokenizer"]}
    few = {"reconstruction": {"images": 2, "batch": 4}, "perception": None}
    node = run_node | {"stages": stages, "order": ("tokenizer",), "evaluation": few}

    def full(path, picture):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("unitoken_jax.evaluate.results.save", full)
    found = run(build_experiment(node), tmp_path)
    assert found["reconstruction"]["measures"]["psnr"]["count"] == 2
    assert found["reconstruction"]["samples"] == {}
    assert "examples are left out" in caplog.text


@pytest.fixture
def odd_data(data_dir, tmp_path):
    """Return what makes a data set with other held-out records."""

    def make(change):
        directory = tmp_path / f"odd{len(list(tmp_path.iterdir()))}"
        shutil.copytree(data_dir, directory)
        held_out = list(Split(data_dir, "heldout"))
        made = [change(number, record) for number, record in enumerate(held_out)]
        for path in directory.glob("heldout*"):
            path.unlink()
        entries = map(records.encode, made)
        splits = {
            "heldout": write_split(
                directory, "heldout", entries, count=len(made), shards=1
            )
        }
        train = list(Split(data_dir, "train"))
        for path in directory.glob("train*"):
            path.unlink()
        entries = map(records.encode, train)
        splits["train"] = write_split(
            directory, "train", entries, count=len(train), shards=1
        )
        files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
        Manifest(splits, {"source": "test"}, {}, (), files).write(directory)
        return str(directory)

    return make


def test_held_out_records_that_do_not_fit_are_set_aside(
    run_node, workdir, odd_data, caplog
):
    def change(number, record):
        if number == 0:
            record["captions"] = ["<|image|> in a caption"]
            record["questions"][0]["question"] = "what is <|image|>?"
        elif number == 1:
            record["captions"] = ["heart " * 200]
            record["questions"][1]["question"] = "what color? " * 40
        elif number == 2:
            record["questions"][0]["answer"] = "a heart " * 60
        elif number == 3:
            record["images"][0]["bytes"] = b"no picture"
        elif number == 4:
            record["captions"] = ["\u2028\x85 \0 <s><reserved08706>"]
        return record

    node = run_node | {"data_dir": odd_data(change)}
    wanted = run_node["evaluation"] | {
        "understanding": {"questions": 12, "examples": 2},
        "generation": {"images": 12, "captions": 2, "drawings": 3},
    }
    found = run(build_experiment(node | {"evaluation": wanted}), workdir, "odd")
    assert results.failures(found) == {}
    asked = found["understanding"]
    # Two questions a record; three records have one that does not fit, one no picture.
    assert asked["measures"]["accuracy/all"]["count"] == 24 - 3 - 2
    assert (asked["set_aside"]["count"], asked["set_aside"]["of"]) == (5, 24)
    reasons = " ".join(r["reason"] for r in asked["set_aside"]["records"])
    assert "placeholders" in reasons
    assert "shorten it" in reasons
    assert "and its question 'what is this?' take" in reasons
    assert "is not an image" in reasons
    drawn = found["generation"]
    assert drawn["measures"]["caption_rank"]["count"] == 12 - 3
    assert found["retrieval"]["measures"]["image_to_text/recall@1"]["count"] == 8
    assert "understanding: 5 of 24 (20.8%) set aside, the first is" in caplog.text


def test_a_part_of_which_no_record_fits_says_why(run_node, workdir, odd_data):
    def change(number, record):
        for question in record["questions"]:
            question["question"] = f"<|image|> {number}?"
        return record

    node = run_node | {"data_dir": odd_data(change)}
    parts = {"reconstruction": {"images": 2, "batch": 4}}
    parts |= {"understanding": {"questions": 3}}
    chain = build_experiment(node | {"evaluation": dict.fromkeys(EVALUATORS) | parts})
    with pytest.raises(EvaluationError, match=r"no questions.*set aside.*placeholders"):
        run(chain, workdir, "none-fits")
    assert "psnr" in results.read(workdir, "none-fits")["reconstruction"]["measures"]


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(
        ["<|image|>", "heart " * 90, "\u2028", "<s>", "{caption}", "a" * 999]
    ),
)


@pytest.mark.slow
@given(texts=st.lists(TEXTS, min_size=12, max_size=12))
@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_held_out_texts_are_the_others_are_measured(
    run_node, workdir, odd_data, texts
):
    def change(number, record):
        record["captions"] = [texts[number]]
        record["questions"][0]["question"] = texts[number - 1]
        record["questions"][1]["answer"] = texts[number - 2]
        return record

    node = run_node | {"data_dir": odd_data(change)}
    parts = {"retrieval": {"pairs": 8, "batch": 4, "ranks": (1,)}}
    parts |= {"understanding": {"questions": 12}}
    parts |= {"generation": {"images": 12, "captions": 2, "drawings": 2}}
    chain = build_experiment(node | {"evaluation": dict.fromkeys(EVALUATORS) | parts})
    try:
        found = run(chain, workdir)
    except EvaluationError:  # too few captions are left
        return
    asked = found["understanding"]
    taken = asked["measures"]["accuracy/all"]["count"]
    assert taken + asked.get("set_aside", {"count": 0})["count"] == 24


def names(config, *fields):
    """Evaluators that run for a config."""
    return set(evaluators(build_experiment(evaluate(config, fields))))


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
            "images": 8,
            "distribution": {"batch": 4, "neighbors": 1, "resamples": 4},
        },
    }
    node = run_node | {"evaluation": dict.fromkeys(EVALUATORS) | parts}
    found = run(build_experiment(node), workdir, "seen")["perception"]["measures"]
    counts = {key: measure["count"] for key, measure in found.items()}
    names = [f"{name}_alexnet" for name in ("frechet", "kernel", "precision", "recall")]
    assert counts == (
        {"reconstructions/stlpips_alexnet": 8}
        | {f"reconstructions/{name}": 8 for name in names}
        # Recall counts the real pictures, of which there are more than drawings.
        | {f"drawings/{name}": 8 if "recall" in name else 3 for name in names}
    )


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
    assert done.returncode == REFUSED
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
        run(build_experiment(node | {"evaluation": none | node["evaluation"]}), workdir)
