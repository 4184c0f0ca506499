"""A stage of an experiment, planned as it is or searched for its fastest setting."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.config import PackedConfig
from unitoken_jax import convert
from unitoken_jax.config import ConfigError, UserError, nearest
from unitoken_jax.convert import WeightsError
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.parallel import topology as topologies
from unitoken_jax.plan import ahead, model_flops, report, search
from unitoken_jax.runtime.environment import write_text
from unitoken_jax.train.config import ExperimentConfig, StageConfig

log = logging.getLogger("unitoken_jax.plan.main")

SEARCH_FLAGS = ("search", "limit", "axes")
"""Flags of a search that its trials do not get."""


def plan(
    stage: StageConfig, topology: topologies.Topology, text: Path | None = None
) -> report.Plan:
    """Compile the step of a stage and price it; see `report.assemble`.

    Args:
        stage: the stage.
        topology: to compile for.
        text: where to keep the compiled program's text.

    Raises:
        UserError: whatever keeps the step from compiling, in a sentence.
    """
    at = f"config.stages.{stage.name}"
    system, data = stage.system, stage.data
    codebooks = getattr(stage.model, "codebooks", 1)
    shapes = data.batch_spec(stage.train.batch, codebooks=codebooks)
    frozen_models = {
        name: _frozen(weights.format, f"{at}.frozen_models.{name}")
        for name, weights in stage.frozen_models.items()
    }
    compiled = ahead.compile_job(
        stage, system, shapes, topology, at=at, frozen_models=frozen_models
    )
    if text is not None:
        write_text(text, compiled.text)
    items = {"pictures": stage.train.batch}
    if isinstance(data, PackedConfig):
        items = {
            "rows": stage.train.batch,
            "tokens": stage.train.batch * data.row_length,
        }
    flops = model_flops.count(
        stage, system, compiled.layout, compiled.batch, frozen_models
    )
    found = report.assemble(
        compiled, topology, flops=flops, items=items, steps=stage.train.steps
    )
    return {"name": stage.name} | found


def choose(experiment: ExperimentConfig, name: str | None) -> StageConfig:
    """Return the stage of a name, or the last one.

    Raises:
        ConfigError: there is none of that name.
    """
    if name is None:
        name = experiment.order[-1]
        if len(experiment.order) > 1:
            log.info("planning stage %s; --stage chooses another", name)
    if name not in experiment.stages:
        raise ConfigError(
            f"--stage={name}: the config has no such stage"
            f"{nearest(name, experiment.stages)}"
        )
    return experiment.stages[name]


def find_fastest(
    stage: StageConfig,
    topology: topologies.Topology,
    journal: Path,
    *,
    config: Mapping[str, object],
    arguments: Sequence[str],
    axes: Sequence[str] = (),
    limit: float,
) -> None:
    """Search the settings of a stage and log every trial, the fastest last.

    Args:
        stage: the stage.
        topology: to compile for.
        journal: where trials are kept.
        config: the whole config, as it was given.
        arguments: the command line of this search.
        axes: what is searched along; everything if none is named.
        limit: seconds that a trial may take.

    Raises:
        UserError: no such axis, or no compiler for the topology.
    """
    topologies.devices(topology)  # without libtpu no trial would have a result
    space = search.axes(stage, topology)
    for name in axes:
        if name not in space:
            raise ConfigError(f"--axes: {name!r}{nearest(name, space)}")
    if axes:
        space = {name: space[name] for name in axes}
    at = f"config.stages.{stage.name}" if "stages" in config else "config"
    command = for_trials(arguments)
    trials = search.search(
        space,
        search.in_process(command, limit, at),
        journal,
        command=command,
        searched=search.fingerprint(config),
        limit=limit,
        own=search.current(stage, space),
        lean=search.leanest(stage),
    )
    for trial in sorted(trials, key=lambda each: each.seconds):
        log.info("%s", search.describe(trial))
    flags_of_best = " ".join(search.overrides(search.fastest(trials).setting, at))
    log.info("The fastest: %s", flags_of_best or "the config as it is")


def for_trials(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a trial: a search's, without what is its own."""
    kept = []
    rest = iter(arguments)
    for each in rest:
        name, equals, _ = each.lstrip("-").partition("=")
        if not each.startswith("-") or name not in SEARCH_FLAGS:
            kept.append(each)
        elif not equals:
            next(rest, None)  # the value stands apart
    return kept


def _frozen(format: str, at: str) -> FrozenModel:
    """Return a frozen network of the published shape; its weights need not exist."""
    try:
        return FrozenModel(*convert.abstract(format))
    except WeightsError as error:
        raise UserError(f"{at}.format: {error}.") from error
