"""The command line with the real models and data pipelines, in miniature."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_chain

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.config import ConfigError, UserError, plain
from unitoken_jax.errors import REFUSED
from unitoken_jax.pipeline import check, train
from unitoken_jax.runtime import lock, processes
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.preflight import check_all_is_read, check_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Directory and vocabulary of a prepared data set."""
    directory = tmp_path_factory.mktemp("squares") / "data"
    return directory, tiny_chain.make_data(directory)


@pytest.fixture(scope="module")
def node(data):
    return tiny_chain.get_config(*data)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("evaluation.retreival", {}, "config.evaluation.retreival: unknown name; did"),
        ("generation.topk", 3, "config.generation.topk: unknown name; did you mean"),
        ("stages.base.data.row_lenght", 9, "stages.base.data.row_lenght: unknown name"),
        ("stages.stage2.model.decoder.hiden", 9, "stage2.model.decoder.hiden: unknown"),
        ("stages.stage2.model.kind", "unitokn", "did you mean 'unitoken'?"),
        ("stages.stage2.model.decoder.layers", 3, "init.decoder: the parameters of"),
        ("stages.stage1.init.decoder", "bse:decoder", "names neither a stage nor a"),
        ("stages.stage1.optimizer.groups.adapter.pattern", "adapt", "match no group"),
        ("stages.tokenizer.train.batch", 12, "choose a multiple of 8"),
        ("stages.tokenizer.data.split", "tain", "tain"),
        ("stages.siglip.train.microbatches", 2, "compares the elements of the whole"),
        ("stages.siglip.data.text_length", 9, "model.text.length is 8, the longest"),
        ("stages.tokenizer.data.image_size", 17, "must be a multiple of "),
        ("stages.siglip.data.image_size", 1, "one patch at least must fit"),
        (
            "stages.tokenizer.model.num_groups",
            7,
            "must divide the widths of all levels",
        ),
        ("stages.tokenizer.model.n_embed", 0, "model.n_embed: must be at least 1"),
        (
            "stages.tokenizer.seed",
            2**63,
            "tokenizer.seed: must be at least 0 and at mo",
        ),
        (
            "stages.tokenizer.train.profile_steps",
            -1,
            "profile_steps: must be at least 0",
        ),
        ("generation.temperature", float("inf"), "temperature"),
        ("generation.guidance", float("nan"), "guidance"),
        ("generation.guidance_interval", 4, "a unitoken does not read it, only"),
        (
            "stages.siglip.codes",
            {"stage": "tokenizer"},
            "'pairs' holds no codes; leave",
        ),
        ("stages.base.data.directory", "data/x", "leave out the one or the other"),
        (
            "stages.base.data.prompts.mixture.draw",
            0,
            "does not have it, only that of ki",
        ),
        ("stages.tokenizer.data.mixture.draw", 0, "only that of kind 'sequences'"),
        ("stages.siglip.data.kind", "images", "only that of kind 'pairs'"),
        ("stages.stage2.data.kind", "pairs", "only that of kind 'sequences'"),
        ("stages.stage2.data.views.patch", 2, "model.vision.patch is 4, so that slots"),
        ("stages.stage2.data.views.patch", 6, "set the data's to 4"),
        ("stages.stage2.data.row_views", 0, "whose rows show pictures; set"),
        ("stages.base.data.layout.encoding", "dual", "set the encoding to 'discrete'"),
        ("stages.base.data.views.size", 16, "whose rows show no views; leave it out"),
        ("stages.stage2.model.mask_image_logits", True, "mixture.draw is 2, so that"),
        (
            "data_dir",
            "nowhere",
            "python -m data_pipelines.prepare --input ZIP --output",
        ),
    ],
)
def test_faults_are_found_before_anything_trains(
    node, tmp_path, path, value, sentence
) -> None:
    changed = plain(node)
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    with pytest.raises(UserError) as caught:
        train(build_experiment(changed), tmp_path / "run")
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())  # neither a log nor a lock


def test_data_that_suits_a_model_passes(node) -> None:
    """Tokenizers need no texts; a tower interpolates its positions to other views."""
    changed = plain(node)
    stages = changed["stages"]
    stages["tokenizer"]["data"]["kind"] = "pairs"
    stages["stage1"]["model"]["mask_image_logits"] = True  # it only reads pictures
    stages["stage2"]["data"]["views"]["size"] = 2 * tiny_chain.IMAGE
    check(build_experiment(changed))


def test_a_tower_that_sees_nothing_is_said(node, caplog) -> None:
    changed = plain(node)
    changed["stages"]["stage2"]["data"]["layout"]["encoding"] = "discrete"
    check(build_experiment(changed))
    (record,) = caplog.records
    assert "stage2.model.vision is a tower that sees nothing" in record.message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"supervision": "contrastive", "l1": 0.5}, "objective.l1 is 0.5, but supe"),
        ({"supervision": "contrastive", "decode_every": 2}, "decodes no images, so"),
        ({"supervision": "reconstruction", "contrastive": 2.0}, "reads no texts, so"),
        ({"perceptual": 0, "perceptual_every": 2}, "the weight perceptual is 0, so"),
        ({"projection": "linear", "causal": True}, "which attends to nothing, so"),
        ({"projection": "linear", "projection_heads": 2}, "which attends to nothing"),
        ({"supervision": "contrastive", "l1": 0.2, "perceptual": 0.0}, ""),
        ({"supervision": "reconstruction", "contrastive": 0.0}, ""),
    ],
)
def test_fields_that_another_leaves_without_effect_are_refused(
    node, fields, said, caplog
) -> None:
    model = {k: v for k, v in fields.items() if k in ("projection", "causal")}
    if heads := fields.get("projection_heads"):
        model["projection_heads"] = heads
    objective = {k: v for k, v in fields.items() if k not in model}
    changed = plain(node)
    stage = changed["stages"]["siglip"]
    stage["model"] = {"kind": "unitok", "objective": objective, **model}
    stage["data"]["image_size"] = 16
    expected = (
        pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext()
    )
    chain = build_experiment(changed)
    check_data(chain)
    with expected:
        check_all_is_read(chain, begins=True)
    check_all_is_read(chain, begins=False)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("supervision", "fits"),
    [("both", False), ("reconstruction", True), ("contrastive", False)],
)
def test_unitok_needs_texts_to_contrast(node, supervision, fits) -> None:
    stage = plain(node)["stages"]["tokenizer"]
    stage["model"] = {"kind": "unitok", "objective": {"supervision": supervision}}
    stage["data"]["image_size"] = 32
    chain = build_experiment(
        {"name": "one", "order": ("only",), "data_dir": "data"}
        | {"stages": {"only": stage}}
    )
    with (
        contextlib.nullcontext()
        if fits
        else pytest.raises(ConfigError, match="'pairs'")
    ):
        check_data(chain)


def test_every_byte_of_the_data_is_verified_on_request(node, data, tmp_path) -> None:
    directory = Path(shutil.copytree(data[0], tmp_path / "data"))
    # Training does not read these, so that it would begin.
    path = directory / "heldout.pictures-00000-of-00001.array_record"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    chain = build_experiment(plain(node) | {"data_dir": str(directory)})
    message = rf"--verify_data: {path} does not have the digest of its manifest"
    with pytest.raises(UserError, match=message):
        train(chain, tmp_path / "run", verify=True)
    assert not (tmp_path / "run").exists()


def test_two_runs_in_one_directory_are_refused(node, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    (tmp_path / "log.txt").touch()
    with lock.only_run(tmp_path), pytest.raises(UserError, match=r"remove .*/\.lock"):
        train(build_experiment(node), tmp_path)
    assert (tmp_path / "log.txt").read_text() == ""


def test_a_model_must_number_ids_as_the_data_set(node, tmp_path) -> None:
    changed = plain(node)
    base = changed["stages"]["base"] | {"codes": None}
    changed |= {"order": ("base",), "stages": {"base": base}}
    base["model"]["decoder"]["vocab_size"] = 5000
    with pytest.raises(ConfigError, match=r"vocab_size is 5000, the data set's"):
        train(build_experiment(changed), tmp_path)


CONFIG_FILE = """
import json
from pathlib import Path
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads(Path(__file__).with_suffix(".json").read_text()))
"""
# One device, and programs that run once are not worth optimizing.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


@pytest.fixture
def command(node, tmp_path):
    """Starts a process that trains in tmp_path / "run"; `stages` narrows the chain."""

    def start(
        *flags: str, stages: tuple[str, ...] = (), known=False
    ) -> subprocess.Popen:
        config = plain(node)
        if stages:
            config["order"] = stages
            config["stages"] = {name: config["stages"][name] for name in stages}
        (tmp_path / "tiny.py").write_text(CONFIG_FILE)
        (tmp_path / "tiny.json").write_text(json.dumps(config))
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "unitoken_jax.train", "--compile_cache="),
                *([] if known else [f"--config={tmp_path / 'tiny.py'}"]),
                *(f"--workdir={tmp_path / 'run'}", *flags),
            ],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def _finish(process: subprocess.Popen) -> str:
    """Wait for a process to end well and return what it printed."""
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
def test_five_stages_evaluation_and_report(node, command, tmp_path) -> None:
    run = tmp_path / "run"
    output = _finish(command())
    for name in node.order:
        rows = (run / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
        assert json.loads((run / name / "finished.json").read_text())["steps"] == 3
        assert f"config: {run / name / 'config.json'}" in output
    assert list((run / "codes" / "tokenizer").glob("train-*.array_record"))
    assert re.search(r"vision: \d+ arrays, [\d,]+ parameters, from vision of", output)
    found = json.loads((run / "evaluation" / "default.json").read_text())
    assert {"reconstruction", "retrieval", "understanding", "generation"} <= set(found)
    assert output.splitlines()[-1] == f"report: {run / 'report.html'}"
    assert (run / "log.txt").read_text().count("is complete after") == 5

    # The same command again has nothing left but the page.
    before = (run / "evaluation" / "default.json").stat().st_mtime_ns
    (run / "report.html").unlink()
    assert "stage stage2 is complete (3 steps)" in _finish(command())
    assert (run / "evaluation" / "default.json").stat().st_mtime_ns == before
    assert (run / "report.html").is_file()


def test_sigterm_saves_and_the_same_command_resumes(command, tmp_path) -> None:
    alone = ("tokenizer",)
    quick = ("--config.finish=false", "--config.stages.tokenizer.train.image_every=0")
    process = command(
        *quick, "--config.stages.tokenizer.train.steps=100000", stages=alone
    )
    stage = tmp_path / "run" / "tokenizer"
    metrics = stage / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = _finish(process)
    (saved,) = checkpoints.steps(stage / "checkpoints")
    assert f"has saved step {saved} of 100000; the same command resumes" in output

    # The run knows its config; what is set otherwise is set in that.
    longer = f"--config.stages.tokenizer.train.steps={saved + 2}"
    output = _finish(command(longer, stages=alone, known=True))
    assert f"resuming at step {saved} of {saved + 2}" in output
    assert "changed since the checkpoint: train.steps" in output
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["step"] == saved + 2


@pytest.mark.parametrize("variable", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_numbers_of_the_environment(variable, monkeypatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert (processes.number(None, variable), processes.number(0, variable)) == (0, 0)
    monkeypatch.setenv(variable, "3")
    assert (processes.number(None, variable), processes.number(0, variable)) == (3, 0)
    monkeypatch.setenv(variable, "two")
    with pytest.raises(ConfigError, match=f"{variable}=two in the environment: exp"):
        processes.number(None, variable)


def test_a_typo_is_one_line(command) -> None:
    process = command("--config.stages.tokenizer.optimizer.learning_rat=1")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (REFUSED, "")
    (line,) = errors.splitlines()
    assert line.startswith(
        "error: config.stages.tokenizer.optimizer.learning_rat: unknown name; did you "
        "mean 'learning_rate'?"
    )
