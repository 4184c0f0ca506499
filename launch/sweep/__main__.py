"""Run a sweep: python -m launch.sweep --config configs/sweeps/NAME.py [--workdir DIR].

The same command resumes; --dry_run prints what would run. A report page is written
when runs have ended, whether or not all of them did well.
"""

import logging
import shlex
import sys
from pathlib import Path

from absl import flags

from launch.sweep import tasks as planning
from launch.sweep.config import SweepConfig, points
from launch.sweep.runner import Runner, launcher, train_here
from unitoken_jax import config
from unitoken_jax.config import UserError
from unitoken_jax.report import comparison

log = logging.getLogger("launch.sweep")


def main() -> None:
    """Run, or print, what the flags say."""
    given = flags.FLAGS
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True
    )
    sweep = config.build(SweepConfig, given.config)
    folder = Path(given.workdir or f"runs/{sweep.name}")
    everything, chosen = points(sweep), points(sweep, given.only)
    tasks = planning.plan(everything, folder, chosen)
    command = launcher(given.via) if given.via else train_here
    if given.dry_run:
        equal = {}
        if given.reuse:
            equal = planning.equal_stages(tasks, chosen, Path(given.reuse))
        for task in tasks:
            state = "done" if task.is_done() else "to run"
            if task.name in equal:
                state = f"taken from {given.reuse}"
            print(f"# {task.name}: {state}\n{shlex.join(command(task))}")
        return
    if given.reuse:
        for name in planning.adopt(tasks, chosen, Path(given.reuse)):
            log.info("%s: taken from %s", name, given.reuse)
    runner = Runner(
        sweep,
        tasks,
        folder,
        command=command,
        parallel=given.parallel,
        retries=given.retries,
    )
    complete = runner.run()
    log.info("report: %s", comparison.build(folder))
    if runner.interrupted:
        log.info("interrupted; the same command goes on.")
    elif not complete:
        failed = [n for n, p in runner.progress.items() if p.status == "failed"]
        raise UserError(
            f"{len(failed)} of {len(tasks)} runs failed: {', '.join(failed)}. Their "
            f"logs stand in {folder / 'logs'}; the same command tries them again."
        )


if __name__ == "__main__":
    config.define_flag()
    flags.DEFINE_string("workdir", None, "Directory of the sweep; runs/NAME if none.")
    flags.DEFINE_multi_string("only", [], "AXIS=LABEL: run these points only.")
    flags.DEFINE_string("reuse", None, "A run whose equal stages need no training.")
    flags.DEFINE_string("via", None, "A launcher and its options: 'slurm --nodes 2'.")
    flags.DEFINE_integer("parallel", 1, "Runs at a time.", 1)
    flags.DEFINE_integer("retries", 1, "How often a failed run is tried again.", 0)
    flags.DEFINE_bool("dry_run", False, "Print the commands of the runs only.")
    config.run(main)
