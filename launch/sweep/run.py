"""A sweep from its config to its page, as the flags of `launch.sweep` say.

A report page is written when runs have ended, whether or not all of them did well.
"""

import dataclasses
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.signals import PREEMPTED
from launch.sweep import refusals
from launch.sweep import tasks as planning
from launch.sweep.config import (
    SweepConfig,
    check_overrides,
    points,
    split_overrides,
)
from launch.sweep.runner import Progress, Runner, check_launcher, places
from unitoken_jax import config
from unitoken_jax.errors import ConfigError, FailedError, UserError
from unitoken_jax.report import comparison

log = logging.getLogger("launch.sweep")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a command line asks for.

    Attributes:
        config: plain values of a sweep's config.
        workdir: of the sweep; None is runs/NAME.
        only: AXIS=LABEL of the points that are run; none is all.
        reuse: a run whose equal stages need no training.
        via: launchers and their options.
        parallel: runs at a time; None is one, or one by each launcher.
        retries: how often a failed run is tried again.
        dry_run: whether the commands are printed and nothing is run.
    """

    config: Mapping[str, object]
    workdir: Path | None = None
    only: Sequence[str] = ()
    reuse: Path | None = None
    via: Sequence[str] = ()
    parallel: int | None = None
    retries: int = 1
    dry_run: bool = False


def run(given: Options) -> None:
    """Run a sweep, or print its commands.

    Raises:
        UserError: points are refused.
        FailedError: runs have failed.
    """
    sweep, fields = _read(given.config)
    folder = given.workdir or Path(f"runs/{sweep.name}")
    everything = points(sweep, (), fields)
    wanted = {point.name for point in points(sweep, given.only, fields)}
    commands = places(given.via, given.parallel)
    refused = refusals.find(everything)
    aside = {p.name: (p, refused[p.name]) for p in everything if p.name in refused}
    everything = [point for point in everything if point.name not in refused]
    chosen = [point for point in everything if point.name in wanted]
    set_aside = {name: why for name, (_, why) in aside.items() if name in wanted}
    if not chosen:
        raise ConfigError(_all_refused(set_aside))
    tasks = planning.plan(everything, folder, chosen)
    for words in given.via:
        check_launcher(words, tasks)
    reuse = planning.Reuse({}, {})
    if given.reuse is not None:
        reuse = planning.reuse(tasks, chosen, given.reuse)
    for stage, why in reuse.refused.items():
        log.info("# %s of %s is not taken: %s", stage, given.reuse, why)
    for name, why in set_aside.items():
        log.info("# %s is refused and set aside: %s", name, why)
    if given.dry_run:
        for task in tasks:
            state = "done" if task.is_done() else "to run"
            if task.name in reuse.taken:
                state = f"taken from {given.reuse}"
            print(f"# {task.name}: {state}\n{shlex.join(commands[0](task))}")
        _end({}, len(tasks), set_aside, folder)
        return
    planning.adopt(tasks, reuse.taken, given.reuse or Path())
    for name in reuse.taken:
        log.info("%s: taken from %s", name, given.reuse)
    runner = Runner(
        sweep,
        tasks,
        folder,
        everything=planning.plan(everything, folder),
        refused=aside,
        command=commands,
        retries=given.retries,
    )
    runner.run()
    log.info("report: %s", comparison.build(folder))
    if runner.interrupted:
        log.info("interrupted; the same command goes on.")
        sys.exit(PREEMPTED)
    _end(runner.progress, len(tasks), set_aside, folder)


def _end(
    progress: Mapping[str, Progress],
    count: int,
    set_aside: Mapping[str, str],
    folder: Path,
) -> None:
    """Name what has failed and what was refused, if anything."""
    faults = []
    failed = [name for name, p in progress.items() if p.status == "failed"]
    if failed:
        faults.append(
            f"{len(failed)} of {count} runs failed: {', '.join(failed)}. Their "
            f"logs stand in {folder / 'logs'}; the same command tries them again."
        )
    if set_aside:
        whys = "; ".join(
            f"{name}: {why.rstrip('.')}" for name, why in set_aside.items()
        )
        faults.append(f"{len(set_aside)} points are refused: {whys}.")
    if faults:
        raise (FailedError if failed else UserError)(" ".join(faults))


def _read(node: Mapping[str, object]) -> tuple[SweepConfig, list[str]]:
    """Return the sweep, and fields that the command line sets at every point.

    Raises:
        ConfigError: the config is none of a sweep, or a field tells points apart.
    """
    of_sweep, fields = split_overrides(config.overrides())
    others = {path.split(".")[0] for path, _ in config.overrides()}
    others -= {path.split(".")[0] for path, _ in of_sweep}
    own = {name: value for name, value in node.items() if name not in others}
    sweep = config.build(SweepConfig, own)
    check_overrides(sweep, fields)
    return sweep, fields


def _all_refused(refused: Mapping[str, str]) -> str:
    name, why = next(iter(refused.items()))
    if len(refused) == 1:
        return f"{name}: {why}"
    return f"all {len(refused)} points are refused, the first of them, {name}: {why}"
