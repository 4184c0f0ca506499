"""Plan: python -m unitoken_jax.plan --config FILE --topology v5p:4x4x4 [--slices N].

Compiles the step of a stage for TPU chips that are not there, and says whether it fits,
how long it takes and what bounds it. Any field of the config can be overridden, as in
training. Needs libtpu: pip install -r requirements-plan.txt.
"""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from data_pipelines.config import PackedConfig, build_data
from unitoken_jax import config as configs
from unitoken_jax import convert
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.convert import WeightsError
from unitoken_jax.files import define_path_flag
from unitoken_jax.models import registry
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.parallel import topology as topologies
from unitoken_jax.plan import ahead, model_flops, report, search, selfcheck
from unitoken_jax.train.console import log_to_console
from unitoken_jax.train.environment import write_text
from unitoken_jax.train.job import Job, build_chain

log = logging.getLogger("unitoken_jax.plan.main")

_OWN = ("search", "limit", "axes")  # flags that trials do not get
_LIMIT = 900


def plan(job: Job, topology: topologies.Topology, text: Path | None = None) -> Any:
    """Compile the step of a job and price it; see `report.assemble`.

    Args:
        job: the stage.
        topology: to compile for.
        text: where to keep the compiled program's text.

    Raises:
        UserError: whatever keeps the step from compiling, in a sentence.
    """
    at = f"config.stages.{job.name}"
    system = registry.build(job.model, f"{at}.model")
    data = build_data(job.data, f"{at}.data")
    codebooks = getattr(system.config, "codebooks", 1)
    shapes = data.batch_spec(job.train.batch, codebooks=codebooks)
    frozen_models = {
        name: _frozen(weights.format, f"{at}.companions.{name}")
        for name, weights in job.companions.items()
    }
    compiled = ahead.compile_job(
        job, system, shapes, topology, at=at, frozen_models=frozen_models
    )
    if text is not None:
        write_text(text, compiled.text)
    items = {"pictures": job.train.batch}
    if isinstance(data, PackedConfig):
        items = {"rows": job.train.batch, "tokens": job.train.batch * data.row_length}
    flops = model_flops.count(
        job, system, compiled.layout, compiled.batch, frozen_models
    )
    found = report.assemble(
        compiled, topology, flops=flops, items=items, steps=job.train.steps
    )
    return {"name": job.name} | found


def _frozen(format: str, at: str) -> FrozenModel:
    """A frozen network of the published shape; its weights need not be there."""
    try:
        return FrozenModel(*convert.abstract(format))
    except WeightsError as error:
        raise UserError(f"{at}.format: {error}.") from error


def _stage(name: str | None) -> Job:
    chain = build_chain(flags.FLAGS.config)
    if name is None:
        name = chain.order[-1]
        if len(chain.order) > 1:
            log.info("planning stage %s; --stage chooses another", name)
    if name not in chain.stages:
        raise ConfigError(
            f"--stage={name}: the config has no such stage"
            f"{configs.nearest(name, chain.stages)}"
        )
    return chain.stages[name]


def _search(job: Job, topology: topologies.Topology, journal: Path) -> None:
    topologies.devices(topology)  # without libtpu no trial would have a result
    space = search.axes(job, topology)
    if flags.FLAGS.axes:
        space = {name: space[name] for name in _chosen(flags.FLAGS.axes, space)}
    at = f"config.stages.{job.name}" if "stages" in flags.FLAGS.config else "config"
    command = _for_trials(sys.argv[1:])
    attempt = search.in_process(command, flags.FLAGS.limit, at)
    trials = search.search(
        space,
        attempt,
        journal,
        command=command,
        searched=search.fingerprint(flags.FLAGS.config),
        limit=flags.FLAGS.limit,
        own=search.current(job, space),
        lean=search.leanest(job),
    )
    for trial in sorted(trials, key=lambda each: each.seconds):
        log.info("%s", search.describe(trial))
    best = search.fastest(trials)
    flags_of_best = " ".join(search.overrides(best.setting, at))
    log.info("The fastest: %s", flags_of_best or "the config as it is")


def _for_trials(arguments: list[str]) -> list[str]:
    """The command line of a trial: this one's, without what belongs to a search."""
    kept = []
    rest = iter(arguments)
    for each in rest:
        name, equals, _ = each.lstrip("-").partition("=")
        if not each.startswith("-") or name not in _OWN:
            kept.append(each)
        elif not equals:
            next(rest, None)  # the value stands apart
    return kept


def _chosen(names: list[str], space: Any) -> list[str]:
    for name in names:
        if name not in space:
            raise ConfigError(f"--axes: {name!r}{configs.nearest(name, space)}")
    return names


def main() -> None:
    """Plan as the flags say."""
    given = flags.FLAGS
    with log_to_console():
        if given.self_check:
            for line in selfcheck.lines():
                log.info("%s", line)
            return
        if given.config is None or given.topology is None:
            raise ConfigError(
                "plan needs --config=configs/FILE.py and --topology=v5p:4x4x4."
            )
        for name in ("json", "text"):
            path = given[name].value
            if path and given.search:
                raise UserError(
                    f"--search and --{name} do not go together: a search writes its "
                    f"journal alone; plan with the flags of the fastest and --{name}."
                )
            if path and not path.parent.is_dir():
                raise UserError(
                    f"--{name}={path}: its directory is not there; make it."
                )
        job = _stage(given.stage)
        topology = topologies.parse(given.topology, given.slices)
        if given.search:
            _search(job, topology, given.search)
            return
        found = plan(job, topology, given.text)
        log.info("%s", report.render(found))
        if given.json:
            write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    configs.define_flag(required=False)
    flags.DEFINE_string("topology", None, "Chips of a slice, such as v5p:4x4x4.")
    flags.DEFINE_integer(
        "slices", 1, "Slices that a data-centre network connects.", 1, 4096
    )
    flags.DEFINE_string("stage", None, "Stage of a chain; its last one by default.")
    define_path_flag("json", None, "Write the plan here as well.")
    define_path_flag("text", None, "Write the compiled program's text here.")
    define_path_flag("search", None, "Search; the journal of its trials is here.")
    flags.DEFINE_list("axes", None, "Search along these axes only.")
    flags.DEFINE_float(
        "limit",
        _LIMIT,
        "Seconds that a trial of a search may take.",
        lower_bound=1.0,
    )
    flags.register_validator("limit", math.isfinite, "give a number of seconds.")
    flags.DEFINE_bool("self_check", False, "Price plain matrix products of each chip.")
    configs.run(main)
