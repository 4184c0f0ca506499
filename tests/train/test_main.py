"""The command line with the real models and data pipelines, in miniature."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_chain
from ml_collections import ConfigDict

from unitoken_jax.config import ConfigError, UserError, plain
from unitoken_jax.train import checkpoint
from unitoken_jax.train.__main__ import train
from unitoken_jax.train.job import build_chain


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Directory and vocabulary of a prepared data set."""
    directory = tmp_path_factory.mktemp("squares") / "data"
    return directory, tiny_chain.make_data(directory)


@pytest.fixture(scope="module")
def node(data):
    return tiny_chain.get_config(*data)


def _first(node):
    """Return the config reduced to its first stage."""
    node = ConfigDict(plain(node))
    node.order = ("tokenizer",)
    node.stages = {"tokenizer": node.stages.tokenizer}
    return node


def test_five_stages_evaluation_and_report(node, tmp_path) -> None:
    workdir = tmp_path / "run"
    chain = build_chain(node)
    assert train(chain, workdir)
    for name in chain.order:
        rows = (workdir / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
        assert json.loads((workdir / name / "finished.json").read_text())["steps"] == 3
    assert list((workdir / "codes" / "tokenizer").glob("train-*.array_record"))
    log = (workdir / "log.txt").read_text()
    assert "frozen parameters" in log
    found = json.loads((workdir / "evaluation.json").read_text())
    assert {"reconstruction", "retrieval", "understanding", "generation"} <= set(found)
    page = workdir / "report.html"
    assert f"report: {page}" in log

    # The same command again has nothing left but the page.
    before = (workdir / "evaluation.json").stat().st_mtime_ns
    page.unlink()
    assert train(chain, workdir)
    assert (workdir / "evaluation.json").stat().st_mtime_ns == before
    assert page.is_file()


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
        train(build_chain(changed), tmp_path)
    assert sentence in str(caught.value)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_model_must_number_ids_as_the_data_set(node, tmp_path) -> None:
    changed = plain(node)
    base = changed["stages"]["base"] | {"codes": None}
    changed |= {"order": ("base",), "stages": {"base": base}}
    base["model"]["decoder"]["vocab_size"] = 5000
    with pytest.raises(ConfigError, match=r"vocab_size is 5000, the data set's"):
        train(build_chain(changed), tmp_path)


CONFIG_FILE = """
import json
from pathlib import Path
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads(Path(__file__).with_suffix(".json").read_text()))
"""


@pytest.fixture
def command(node, tmp_path):
    """Arguments of a process that trains the tokenizer for very many steps."""
    (tmp_path / "tiny.py").write_text(CONFIG_FILE)
    (tmp_path / "tiny.json").write_text(_first(node).to_json())
    return [
        *(sys.executable, "-m", "unitoken_jax.train"),
        *(f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'run'}"),
        *("--config.finish=false", "--compile_cache="),
    ]


ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
}


def test_sigterm_saves_and_the_same_command_resumes(command, tmp_path) -> None:
    steps = "--config.stages.tokenizer.train.steps=100000"
    process = subprocess.Popen(
        [*command, steps],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stage = tmp_path / "run" / "tokenizer"
    metrics = stage / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (saved,) = checkpoint.steps(stage / "checkpoints")
    assert f"has saved step {saved} of 100000; the same command resumes" in output

    done = subprocess.run(
        [*command, f"--config.stages.tokenizer.train.steps={saved + 2}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"resuming at step {saved} of {saved + 2}" in done.stdout
    assert "changed since the checkpoint: train.steps" in done.stdout
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["step"] == saved + 2


def test_a_typo_is_one_line(command) -> None:
    done = subprocess.run(
        [*command, "--config.stages.tokenizer.optimizer.learning_rat=1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: config.stages.tokenizer.optimizer.learning_rat: unknown name; did you "
        "mean 'learning_rate'?"
    )
