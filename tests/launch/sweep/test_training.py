"""A sweep with the trainer itself: interrupted, resumed, one run failing, its page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_chain

from launch.signals import PREEMPTED
from unitoken_jax.config import plain

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
FROM_JSON = """
import json
from pathlib import Path
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads(Path(__file__).with_suffix(".json").read_text()))
"""
STEPS = 60
MIXTURE = "stages.base.data.mixture"


def write(folder: Path, name: str, node: dict) -> Path:
    """Write a config file that holds plain values."""
    (folder / f"{name}.json").write_text(json.dumps(node))
    path = folder / f"{name}.py"
    path.write_text(FROM_JSON)
    return path


def write_sweep(folder: Path) -> Path:
    """Write a chain of a tokenizer and a decoder, and a sweep over the decoder's."""
    data = folder / "data"
    node = plain(tiny_chain.get_config(data, tiny_chain.make_data(data)))
    kept = ("tokenizer", "base")
    node |= {"order": kept, "stages": {name: node["stages"][name] for name in kept}}
    node["stages"]["base"]["train"] |= {"steps": STEPS, "log_every": 1}
    node["evaluation"] |= dict.fromkeys(("reconstruction", "retrieval", "perception"))
    chain = write(folder, "chain", node)
    values = [
        {"label": "reads", "set": [f"{MIXTURE}.draw=0.1"]},
        {"label": "fails", "set": ["stages.base.data.split=nowhere"]},
        {"label": "draws", "set": [f"{MIXTURE}.draw=20.0"]},
    ]
    sweep = {
        "name": "tiny",
        "config": str(chain),
        "axes": [{"name": "mixture", "values": values}],
        "seeds": [1],
        "seed_fields": ["stages.base.seed"],
        "page": {
            "x": "understanding/bits_per_answer/all",
            "y": "generation/bits_per_code",
        },
    }
    return write(folder, "sweep", sweep)


def steps(run: Path) -> list[int]:
    """Return the steps that a run has logged."""
    path = run / "base" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.slow
def test_a_sweep_is_interrupted_and_resumed(tmp_path) -> None:
    folder, file = tmp_path / "s", write_sweep(tmp_path)
    command = [sys.executable, "-m", "launch.sweep", f"--config={file}"]
    command += [f"--workdir={folder}", "--retries=1"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with start() as sweep:
        limit = time.monotonic() + 1000
        while not any(steps(run) for run in folder.glob("points/reads*")):
            assert sweep.poll() is None, sweep.communicate()[0]
            assert time.monotonic() < limit
            time.sleep(0.1)
        sweep.send_signal(signal.SIGTERM)
        said = sweep.communicate(timeout=2000)[0]
    assert sweep.returncode == PREEMPTED, said
    assert "interrupted; the same command goes on." in said
    (run,) = folder.glob("points/reads*")
    before = steps(run)
    assert 0 < len(before) < STEPS
    shared = next(folder.glob("shared/*/tokenizer/finished.json"))
    trained = shared.stat().st_mtime_ns

    with start() as sweep:
        said = sweep.communicate(timeout=2000)[0]
    assert sweep.returncode == 1
    assert "1 of 4 runs failed: fails_seed1." in said
    assert shared.stat().st_mtime_ns == trained
    assert steps(run) == list(range(1, STEPS + 1))  # no step twice
    assert (folder / "logs" / "fails_seed1.log").read_text().count("$ ") == 1
    state = json.loads((folder / "sweep.json").read_text())["tasks"]
    assert state["fails_seed1"]["failures"] == 1
    assert "nowhere" in state["fails_seed1"]["error"]
    html = (folder / "report.html").read_text()
    assert "2 of 3 runs are complete" in html
    assert html.count('class="mark c') == 2
    assert "fails_seed1 failed" in html
    found = {}
    for label in ("reads", "draws"):
        (path,) = folder.glob(f"points/{label}*/evaluation/default.json")
        content = json.loads(path.read_text())
        found[label] = [
            content["understanding"]["measures"]["bits_per_answer/all"]["value"],
            content["generation"]["measures"]["bits_per_code"]["value"],
        ]
    # Each is better at what it saw more of: fewer bits are unknown.
    assert found["reads"][0] < found["draws"][0]
    assert found["draws"][1] < found["reads"][1]
