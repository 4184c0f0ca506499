"""The command line in two processes: stages, image codes, evaluation, replay."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_chain

from unitoken_jax.config import plain

pytestmark = pytest.mark.slow

CONFIG_FILE = """
import json
from pathlib import Path
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads(Path(__file__).with_suffix(".json").read_text()))
"""
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    # Programs that run once are not worth optimizing.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
ORDER = ("tokenizer", "base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the config of a chain of two stages, and its data."""
    folder = tmp_path_factory.mktemp("processes")
    vocabulary = tiny_chain.make_data(folder / "data")
    config = plain(tiny_chain.get_config(folder / "data", vocabulary))
    config["order"] = ORDER
    config["stages"] = {name: config["stages"][name] for name in ORDER}
    config["finish"] = False
    config["stages"]["tokenizer"]["train"]["image_every"] = 2
    (folder / "tiny.py").write_text(CONFIG_FILE)
    (folder / "tiny.json").write_text(json.dumps(config))
    return folder


def _start(folder: Path, run: str, *arguments: str, devices: int) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "unitoken_jax.train", "--compile_cache="),
        *(f"--config={folder / 'tiny.py'}", f"--workdir={folder / run}", *arguments),
    ]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def outputs(folder):
    """What one process, and two processes of two devices, print about the chain."""
    alone = _finish(_start(folder, "one", devices=1))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"--coordinator=localhost:{probe.getsockname()[1]}"
    together = [
        _start(folder, "two", address, "--processes=2", f"--process={index}", devices=2)
        for index in range(2)
    ]
    return [alone, *map(_finish, together)]


def _losses(stage: Path) -> list[float]:
    lines = (stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("stage", ORDER)
def test_the_curves_agree(folder, outputs, stage) -> None:
    one, two = (_losses(folder / run / stage) for run in ("one", "two"))
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-5)


def test_the_first_process_speaks_for_all(folder, outputs) -> None:
    _, first, second = outputs
    assert "stage base is complete" in first
    assert "config.stages" not in second
    assert "is complete" not in second
    assert (folder / "two" / "log.txt").read_text().count("is complete after") == 2
    sheets = sorted((folder / "two" / "tokenizer" / "samples").iterdir())
    assert [path.name for path in sheets] == [
        "reconstructions-0000002.png",
        "reconstructions-0000003.png",
    ]


def test_a_step_is_replayed_in_one_process(folder, outputs) -> None:
    flags = ("--stage=base", "--replay=2", "--config.stages.base.mesh.data=1")
    output = _finish(_start(folder, "two", *flags, devices=1))
    assert "everything in this step is finite" in output
    assert "differs from the record" not in output
