"""A SLURM job: python -m launch.slurm --nodes 2 [--partition P] -- ARGUMENTS.

One process a node, joined by what SLURM tells them. The job is told two minutes before
its time is over, saves, and queues itself again; preempted jobs and those that lost a
node are queued again by SLURM.
"""

from collections.abc import Sequence
from functools import partial

from launch import script
from launch.signals import PREEMPTED

_SUMMARY = "Submit a SLURM job of one process a node."


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that submits the job, and whether to print it only.

    Raises:
        UserError: there is nothing to run.
    """
    parser = script.parser("slurm", _SUMMARY)
    parser.add_argument("--nodes", type=int, default=1, help="one process each")
    parser.add_argument("--gpus", type=int, default=0, help="of each node")
    parser.add_argument("--cpus", type=int, default=0, help="of each process")
    parser.add_argument("--time", default="24:00:00", help="limit of one stretch")
    parser.add_argument("--partition", default="", help="'' is the cluster's default")
    parser.add_argument("--logs", default="slurm-%x-%j.log", help="file pattern")
    parser.add_argument(
        "--environment", default=".venv", help="virtual environment, seen by all nodes"
    )
    parser.add_argument(
        "--env_file",
        default="",
        help="variables and secrets, NAME=VALUE a line, seen by all nodes",
    )
    given = parser.parse_args(words)
    joined = given.nodes > 1
    options = [
        f"--job-name={given.name}",
        f"--nodes={given.nodes}",
        "--ntasks-per-node=1",
        f"--time={given.time}",
        f"--output={given.logs}",
        "--open-mode=append",
        "--requeue",
        "--signal=TERM@120",
    ]
    options += [f"--gpus-per-node={given.gpus}"] if given.gpus else []
    options += [f"--cpus-per-task={given.cpus}"] if given.cpus else []
    options += [f"--partition={given.partition}"] if given.partition else []
    job = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "set -u"]
    if given.env_file:
        path = script.quote([given.env_file])
        job += ["set -a", "# shellcheck disable=SC1090,SC1091", f". {path}", "set +a"]
    activate = f"{given.environment}/bin/activate"
    command = [*script.WORKER, *script.train_command(given.arguments, joined=joined)]
    job += [
        "# shellcheck disable=SC1090,SC1091",
        f". {script.quote([activate])}",
        "code=0",
        f"srun --kill-on-bad-exit=1 {script.quote(command)} || code=$?",
        f'if [ "$code" -eq {PREEMPTED} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    ]
    wait = ["--wait"] if given.wait else []
    submit = script.quote(["sbatch", *wait])
    text = f"#!/bin/bash\nset -eu\n{submit} {script.document(chr(10).join(job))}"
    return text, given.dry_run


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
