"""Train: python -m unitoken_jax.train --config FILE --workdir DIR [--stage NAME].

Any field of the config can be overridden: --config.stages.base.train.steps=100. The
same command resumes what was interrupted. With --coordinator, --processes and --process
it is one process of several. With --replay=STEP it executes one step of the run again
and says what was not finite in it.
"""

import os

from absl import flags

from unitoken_jax import config as configs
from unitoken_jax import files, pipeline
from unitoken_jax.config import ConfigError
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.console import log_to_console
from unitoken_jax.runtime.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)
from unitoken_jax.train.experiment import experiment_of


def main() -> None:
    """Train as the flags say."""
    values = flags.FLAGS
    let_cpu_devices_meet()
    count = processes.number(values.processes, "JAX_NUM_PROCESSES")
    index = processes.number(values.process, "JAX_PROCESS_ID")
    with processes.joined(values.coordinator, count, index):
        workdir = values.workdir
        experiment = experiment_of(values.config, workdir)
        with log_to_console(warnings_only=not processes.is_first()):
            use_compile_cache(values.compile_cache)
            if values.replay is None:
                pipeline.train(
                    experiment,
                    workdir,
                    values.stage,
                    values.config,
                    verify=values.verify_data,
                    restore_step=values.restore_step,
                )
            elif values.restore_step is not None:
                raise ConfigError("--replay and --restore_step exclude each other.")
            else:
                pipeline.replay(experiment, workdir, values.replay, values.stage)


if __name__ == "__main__":
    configs.define_flag(required=False)
    files.define_path_flag(
        "workdir", None, "Directory of the run; resumed if it exists.", required=True
    )
    flags.DEFINE_string("stage", None, "Train this stage of a chain only.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")
    flags.DEFINE_bool(
        "verify_data", False, "Compare every byte of the data with its manifest first."
    )
    flags.DEFINE_integer(
        "replay", None, "Execute this step again and say what was not finite in it."
    )
    flags.DEFINE_integer(
        "restore_step",
        None,
        "Go back to the checkpoint of this step; newer ones are set aside.",
    )
    flags.DEFINE_string(
        "coordinator",
        os.environ.get("JAX_COORDINATOR_ADDRESS", ""),
        "HOST:PORT of process 0, of a run of several; 'auto' asks the cluster.",
    )
    flags.DEFINE_integer(
        "processes", None, "How many; if none, what JAX_NUM_PROCESSES says."
    )
    flags.DEFINE_integer(
        "process", None, "Which of them, from 0; if none, what JAX_PROCESS_ID says."
    )
    configs.run(main)
