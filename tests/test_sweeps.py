"""Every sweep in configs/sweeps/: its points are experiments that can be trained."""

import importlib
from pathlib import Path

import pytest

from launch.sweep import tasks
from launch.sweep.config import Point, SweepConfig, points
from launch.sweep.experiment import evaluate
from unitoken_jax.config import build
from unitoken_jax.models import registry
from unitoken_jax.pipeline import check
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.preflight import check_all_is_read

FOLDER = Path(__file__).parents[1] / "configs" / "sweeps"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
WORDED = [*NAMES, "data_ratio:brief"]


def sweep(name: str) -> SweepConfig:
    name, _, word = name.partition(":")
    module = importlib.import_module(f"configs.sweeps.{name}")
    return build(SweepConfig, module.get_config(*filter(None, [word])))


def along_each_axis(found: SweepConfig) -> list[Point]:
    """Points that differ from the first in one value at most."""
    everything = points(found)
    first = everything[0]
    return [
        point
        for point in everything
        if point.seed == first.seed
        and sum(point.labels[a] != first.labels[a] for a in first.labels) <= 1
    ]


@pytest.mark.parametrize("name", WORDED)
def test_points_can_be_trained(name: str) -> None:
    found = {}

    def abstract_params(system: registry.System) -> registry.Params:
        key = repr((system.kind, system.config))
        if key not in found:
            found[key] = registry.abstract_params(system)
        return found[key]

    for point in along_each_axis(sweep(name)):
        chain = build_experiment(evaluate(point.config, point.set))
        check(chain, abstract_params=abstract_params)
        check_all_is_read(chain, begins=True)


@pytest.mark.parametrize("name", NAMES)
def test_pages_show_what_stages_train(name: str) -> None:
    found = sweep(name)
    first = points(found)[0]
    stages = build_experiment(evaluate(first.config, first.set)).stages
    assert {curve.partition("/")[0] for curve in found.page.curves} <= stages.keys()


@pytest.mark.parametrize("name", NAMES)
def test_says_how_to_run_it(name: str) -> None:
    text = importlib.import_module(f"configs.sweeps.{name}").__doc__ or ""
    assert f"python -m launch.sweep --config configs/sweeps/{name}.py" in text


def test_the_ratios_share_their_first_stages(tmp_path) -> None:
    everything = points(sweep("data_ratio"))
    assert len(everything) == 3 * 2 * 6 * 2
    plan = tasks.plan(everything, tmp_path)
    shared = sorted(task.name.rpartition("-")[0] for task in plan if not task.point)
    # One tokenizer, SigLIP and base; a stage I for the dual and the decoupled one.
    assert shared == ["base", "siglip", "stage1", "stage1", "tokenizer"]


def test_a_brief_sweep_has_the_same_points_and_fewer_steps() -> None:
    whole, brief = (points(sweep(name)) for name in ("data_ratio", "data_ratio:brief"))
    assert [point.name for point in whole] == [point.name for point in brief]
    for one, other in zip(whole, brief, strict=True):
        stages, fewer = (
            build_experiment(evaluate(point.config, point.set)).stages
            for point in (one, other)
        )
        for name, job in stages.items():
            assert fewer[name].train.steps < job.train.steps, name
    module = importlib.import_module("configs.sweeps.data_ratio")
    with pytest.raises(ValueError, match="'brif' is not 'brief'"):
        module.get_config("brif")


def test_rates_of_the_tower_are_those_of_the_labels() -> None:
    for point in points(sweep("vit_learning_rate")):
        node = evaluate(point.config, point.set)
        job = build_experiment(node).stages["stage1"]
        rate = job.optimizer.learning_rate * job.optimizer.groups["vision"].lr_scale
        assert rate == pytest.approx(float(point.labels["rate"]))
        assert job.optimizer.groups["decoder"].frozen
