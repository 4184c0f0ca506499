"""Run a sweep: python -m launch.sweep --config configs/sweeps/NAME.py [--workdir DIR].

The same command resumes; --dry_run prints what would run. A report page is written
when runs have ended, whether or not all of them did well.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.signals import PREEMPTED
from launch.sweep import experiment
from launch.sweep import tasks as planning
from launch.sweep.config import Point, SweepConfig, points
from launch.sweep.runner import Runner, check_launcher, launcher, train_here
from unitoken_jax import config
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.files import define_path_flag
from unitoken_jax.report import comparison
from unitoken_jax.train import __main__ as training
from unitoken_jax.train.job import build_chain

log = logging.getLogger("launch.sweep")


def check(chosen: Sequence[Point]) -> None:
    """Refuse what training would refuse in the config of a point.

    Raises:
        ConfigError: naming the point.
    """
    for point in chosen:
        try:
            training.check(build_chain(experiment.evaluate(point.config, point.set)))
        except ConfigError as error:
            raise ConfigError(f"{point.name}: {error}") from error


def main() -> None:
    """Run, or print, what the flags say."""
    given = flags.FLAGS
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True
    )
    sweep = config.build(SweepConfig, given.config)
    folder = given.workdir or Path(f"runs/{sweep.name}")
    everything, chosen = points(sweep), points(sweep, given.only)
    check(everything)
    tasks = planning.plan(everything, folder, chosen)
    command = train_here
    if given.via is not None:
        command = launcher(given.via)
        check_launcher(given.via, tasks)
    reuse = planning.Reuse({}, {})
    if given.reuse is not None:
        reuse = planning.reuse(tasks, chosen, given.reuse)
    for stage, why in reuse.refused.items():
        log.info("# %s of %s is not taken: %s", stage, given.reuse, why)
    if given.dry_run:
        for task in tasks:
            state = "done" if task.is_done() else "to run"
            if task.name in reuse.taken:
                state = f"taken from {given.reuse}"
            print(f"# {task.name}: {state}\n{shlex.join(command(task))}")
        return
    planning.adopt(tasks, reuse.taken, given.reuse or Path())
    for name in reuse.taken:
        log.info("%s: taken from %s", name, given.reuse)
    runner = Runner(
        sweep,
        tasks,
        folder,
        everything=planning.plan(everything, folder),
        command=command,
        parallel=given.parallel,
        retries=given.retries,
    )
    complete = runner.run()
    log.info("report: %s", comparison.build(folder))
    if runner.interrupted:
        log.info("interrupted; the same command goes on.")
        sys.exit(PREEMPTED)
    elif not complete:
        failed = [n for n, p in runner.progress.items() if p.status == "failed"]
        raise UserError(
            f"{len(failed)} of {len(tasks)} runs failed: {', '.join(failed)}. Their "
            f"logs stand in {folder / 'logs'}; the same command tries them again."
        )


if __name__ == "__main__":
    config.define_flag()
    define_path_flag("workdir", None, "Directory of the sweep; runs/NAME if none.")
    flags.DEFINE_multi_string("only", [], "AXIS=LABEL: run these points only.")
    define_path_flag("reuse", None, "A run whose equal stages need no training.")
    flags.DEFINE_string("via", None, "A launcher and its options: 'slurm --nodes 2'.")
    flags.DEFINE_integer("parallel", 1, "Runs at a time.", 1)
    flags.DEFINE_integer("retries", 1, "How often a failed run is tried again.", 0)
    flags.DEFINE_bool("dry_run", False, "Print the commands of the runs only.")
    config.run(main)
