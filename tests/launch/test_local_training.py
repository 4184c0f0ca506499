"""The trainer itself in several processes that the launcher starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_chain

from unitoken_jax.config import plain

CONFIG_FILE = """
import json
from pathlib import Path
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads(Path(__file__).with_suffix(".json").read_text()))
"""
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


@pytest.mark.slow
def test_two_processes_train_one_stage(tmp_path) -> None:
    data = tmp_path / "data"
    node = plain(tiny_chain.get_config(data, tiny_chain.make_data(data)))
    node |= {"order": ("tokenizer",), "finish": False}
    node["stages"] = {"tokenizer": node["stages"]["tokenizer"]}
    node["stages"]["tokenizer"]["train"]["image_every"] = 0
    (tmp_path / "tiny.py").write_text(CONFIG_FILE)
    (tmp_path / "tiny.json").write_text(json.dumps(node))
    run = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launch.local", "--processes=2", "--devices=1"),
            *("--", f"--config={tmp_path / 'tiny.py'}", f"--workdir={run}"),
            "--compile_cache=",
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stage = run / "tokenizer"
    assert json.loads((stage / "finished.json").read_text())["steps"] == 3
    environment = json.loads((stage / "environment.json").read_text())
    assert environment["devices"]["processes"] == 2
    assert environment["devices"]["count"] == 2
