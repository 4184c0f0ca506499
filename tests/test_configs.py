"""Every experiment in configs/: its complete print, and that its stages fit together.

A print holds all fields with their defaults, so a review sees what a change of a config
or of a default does. UPDATE_GOLDEN=1 writes the prints anew.
"""

import dataclasses
import importlib
import os
from pathlib import Path

import pytest

from configs import common
from unitoken_jax.config import plain, render
from unitoken_jax.pipeline import check
from unitoken_jax.train.config import ExperimentConfig
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.preflight import check_all_is_read

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden_configs"
NAMES = sorted(
    str(path.relative_to(ROOT / "configs").with_suffix("")).replace(os.sep, ".")
    for path in (ROOT / "configs").rglob("*.py")
    if path.stem not in ("__init__", "common")  # what configs share
    and path.parent.name != "sweeps"  # see test_sweeps.py
)


def _chain(name: str) -> ExperimentConfig:
    return build_experiment(importlib.import_module(f"configs.{name}").get_config())


def _takes_hardware(name: str) -> bool:
    return "v5e_256" in (importlib.import_module(f"configs.{name}").__doc__ or "")


def _complete(chain: ExperimentConfig) -> ExperimentConfig:
    """Return the chain with what its evaluation measures, "auto" or not."""
    # Plain, so that the names of these groups are sorted.
    groups = {"evaluation": chain.evaluation.complete(), "generation": chain.generation}
    return dataclasses.replace(chain, **plain(groups))


@pytest.mark.parametrize("name", NAMES)
def test_print_is_as_it_was(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    printed = render(_complete(_chain(name)))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(printed)
    assert path.is_file(), f"run UPDATE_GOLDEN=1 pytest {Path(__file__).name}"
    assert printed == path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_stages_fit_together(name: str) -> None:
    """Groups cover every parameter; stages find what they start from, data suits."""
    chain = _chain(name)
    check(chain)
    check_all_is_read(chain, begins=True)


@pytest.mark.parametrize("hardware", common.CHIPS)
@pytest.mark.parametrize("name", [name for name in NAMES if _takes_hardware(name)])
def test_a_slice_is_used_whole(name: str, hardware: str) -> None:
    """Every chip has a part of the mesh, and every part of the batch the same size."""
    module = importlib.import_module(f"configs.{name}")
    word = f"{next(iter(module.SHAPES))}_{hardware}" if name == "llamagen" else hardware
    (job,) = build_experiment(module.get_config(word)).stages.values()
    mesh = job.mesh
    groups = mesh.slice * mesh.data * mesh.fsdp
    assert groups * mesh.tensor * mesh.sequence == common.CHIPS[hardware]
    assert job.train.batch % groups == 0


@pytest.mark.parametrize("name", NAMES)
def test_says_how_to_run_it(name: str) -> None:
    text = importlib.import_module(f"configs.{name}").__doc__ or ""
    assert f"--config configs/{name.replace('.', '/')}.py" in text


def test_no_print_without_its_config() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == NAMES
