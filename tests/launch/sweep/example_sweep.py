"""A chain of three stages that a sweep varies in the last; `stand_in.py` trains it."""

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
