"""Run a sweep: python -m launch.sweep --config configs/sweeps/NAME.py [--workdir DIR].

The same command resumes; --dry_run prints what would run. A report page is written
when runs have ended, whether or not all of them did well.
"""

import logging
import sys

from absl import flags

from launch.sweep.run import Options, run
from unitoken_jax import config
from unitoken_jax.files import define_path_flag


def _main() -> None:
    """Run, or print, what the flags say."""
    given = flags.FLAGS
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True
    )
    run(
        Options(
            config=given.config,
            workdir=given.workdir,
            only=given.only,
            reuse=given.reuse,
            via=given.via,
            parallel=given.parallel,
            retries=given.retries,
            dry_run=given.dry_run,
        )
    )


if __name__ == "__main__":
    config.define_flag()
    define_path_flag("workdir", None, "Directory of the sweep; runs/NAME if none.")
    flags.DEFINE_multi_string("only", [], "AXIS=LABEL: run these points only.")
    define_path_flag("reuse", None, "A run whose equal stages need no training.")
    flags.DEFINE_multi_string(
        "via", [], "A launcher and its options, 'slurm --nodes 2'; each runs one."
    )
    flags.DEFINE_integer(
        "parallel", None, "Runs at a time; 1, or one by each --via.", 1
    )
    flags.DEFINE_integer("retries", 1, "How often a failed run is tried again.", 0)
    flags.DEFINE_bool("dry_run", False, "Print the commands of the runs only.")
    config.run(_main)
