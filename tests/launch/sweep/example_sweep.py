"""A chain of three stages that a sweep varies in the last, and a stand-in to train it.

The stand-in understands the arguments of `python -m unitoken_jax.train` as far as
sweeps use them and leaves the files that a run leaves, without training anything.
"""

import json
import sys
from pathlib import Path

from launch.sweep.config import SweepConfig
from unitoken_jax.config import build

CHAIN = """
from ml_collections import ConfigDict

def get_config(word="plain"):
    job = {"seed": 0, "model": {"kind": word}, "train": {"steps": 3}}
    return ConfigDict({
        "name": "chain",
        "data_dir": "data",
        "order": ("tokenizer", "base", "last"),
        "stages": {
            "tokenizer": job,
            "base": job | {"codes": {"stage": "tokenizer"}},
            "last": job | {"codes": {"stage": "tokenizer"}, "init": {"a": "base:a"}},
        },
    })
"""


def write(folder: Path, **changes) -> SweepConfig:
    """Write the chain's config to a folder; return a sweep over it."""
    (folder / "chain.py").write_text(CHAIN)
    node = {
        "name": "example",
        "config": str(folder / "chain.py"),
        "axes": (
            {
                "name": "rate",
                "values": (
                    {"label": "low", "set": ("stages.last.rate=0.1",)},
                    {"label": "high", "set": ("stages.last.rate=0.9",)},
                ),
            },
        ),
        "seeds": (1, 2),
        "seed_fields": ("stages.last.seed",),
    }
    return build(SweepConfig, node | changes)


def train(words: list[str]) -> None:
    """Do as if a chain was trained: what is complete stays, the rest is marked."""
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    workdir = Path(given["workdir"])
    stages = [given["stage"]] if "stage" in given else ["tokenizer", "base", "last"]
    behaviour = json.loads((workdir.parents[1] / "behaviour.json").read_text())
    for name in stages:
        folder = workdir / name
        if (folder / "finished.json").exists():
            continue
        what = behaviour.get(f"{name}:{given.get('config.stages.last.rate')}")
        if what == "fail":
            print("error: the loss is not finite.")
            sys.exit(1)
        if "preempt once" in str(what) and not (workdir / "once").exists():
            (workdir / "once").touch()
            sys.exit(75 if "75" in str(what) else 0)
        folder.mkdir(parents=True)
        (folder / "trained").write_text(str(workdir))
        (folder / "finished.json").write_text(json.dumps({"steps": 3}))
    if "stage" not in given:
        (workdir / "report.html").touch()


if __name__ == "__main__":
    train(sys.argv[1:])
