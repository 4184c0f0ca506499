"""A SLURM job: python -m launch.slurm --nodes 2 [--partition P] -- ARGUMENTS.

One process a node, joined by what SLURM tells them. The job is told two minutes before
its time is over, saves, and queues itself again; preempted jobs and those that lost a
node are queued again by SLURM.
"""

import argparse
import re
import signal
from collections.abc import Sequence
from functools import partial

from launch import script
from launch.signals import PREEMPTED
from unitoken_jax.config import UserError

_LEAST_TIME = 600  # seconds; shorter stretches would save nothing, again and again
_SUMMARY = "Submit a SLURM job of one process a node."

# Filled by script.fill: shell's own braces stay as they are.
_JOB = """\
#!/bin/bash
@OPTIONS@
set -u
fail() { echo "error: $1" >&2; exit 1; }
@VARIABLES@activate=@ACTIVATE@
[ -r "$activate" ] || fail "$(hostname) has no $activate: set --environment."
# shellcheck disable=SC1090
. "$activate" || fail "$activate cannot be used."
code=0
# Nothing is killed: all processes save and end, or notice that one was lost.
srun --kill-on-bad-exit=0 --wait=0 @COMMAND@ || code=$?
# SIGTERM ends a process that has not begun.
if [ "$code" -eq @PREEMPTED@ ] || [ "$code" -eq @TERMINATED@ ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
# As docker reads such a file: nothing is expanded.
_VARIABLES = """\
variables=@FILE@
[ -r "$variables" ] || fail "$(hostname) cannot read $variables: set --env_file."
number=0
while IFS= read -r line || [ -n "$line" ]; do
  number=$((number + 1))
  case "$line" in
    "" | "#"*) continue ;;
    [a-zA-Z_]*=*) export "${line?}" 2>/dev/null && continue ;;
  esac
  fail "line $number of $variables is not NAME=VALUE."
done < "$variables"
"""
# sbatch says the job's number only when it ends, unless a terminal listens.
_WAIT = """\
#!/bin/bash
set -eu
mark=launch-$(hostname)-$$
asked=""
trap 'asked=yes' HUP TERM INT
# A group of its own: a signal reaches this script, which then tells the job.
set -m
sbatch --wait --comment="$mark" @DOCUMENT@submitted=$!
set +m
code=0
wait "$submitted" || code=$?
if [ -z "$asked" ]; then exit "$code"; fi
trap '' HUP TERM INT
job=$(squeue --noheader --user="$(id -un)" --format='%i %k' |
  awk -v mark="$mark" '$2 == mark { print $1 }')
if [ -n "$job" ]; then
  # The terminal may be closed.
  echo "job $job is asked to end; the same command goes on" >&2 || true
  # It saves, and is not queued again.
  scontrol update "JobId=$job" Requeue=0 || true
  scancel --state=PENDING "$job" || true
  scancel --signal=TERM "$job" || true
else
  echo "the job is not in the queue" >&2 || true
  kill "$submitted" 2>/dev/null || true
fi
wait "$submitted" || true
exit @PREEMPTED@
"""


def _time(text: str) -> str:
    """Refuse a limit in which no run can start, step and save."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:  # such as UNLIMITED: sbatch judges
        return text
    days, *rest = (int(part) if part else 0 for part in found.groups())
    if found[1] is None and found[4] is None:  # MINUTES or MINUTES:SECONDS
        rest = [0, *rest[:2]]
    hours, minutes, seconds = rest
    total = 86_400 * days + 3_600 * hours + 60 * minutes + seconds
    if 0 < total < _LEAST_TIME:  # 0 is none
        raise argparse.ArgumentTypeError(
            f"{text} is less than {_LEAST_TIME // 60} minutes: the job is told to save "
            "two minutes before its end, and must have started and taken steps by then"
        )
    return text


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that submits the job, and whether to print it only.

    Raises:
        UserError: there is nothing to run, or an option has a line break.
    """
    parser = script.parser("slurm", _SUMMARY)
    one, none = script.at_least(1), script.at_least(0)
    parser.add_argument("--nodes", type=one, default=1, help="one process each")
    parser.add_argument("--gpus", type=none, default=0, help="of each node")
    parser.add_argument("--cpus", type=none, default=0, help="of each process")
    parser.add_argument(
        "--time", type=_time, default="24:00:00", help="limit of one stretch"
    )
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
    for option in options:
        if "\n" in option:
            raise UserError(f"{option!r} has a line break; write it in one line.")
    variables = ""
    if given.env_file:
        variables = script.fill(_VARIABLES, FILE=script.quote([given.env_file]))
    command = [*script.WORKER, *script.train_command(given.arguments, joined=joined)]
    job = script.fill(
        _JOB,
        OPTIONS="\n".join(f"#SBATCH {script.quote([option])}" for option in options),
        VARIABLES=variables,
        ACTIVATE=script.quote([f"{given.environment}/bin/activate"]),
        COMMAND=script.quote(command),
        PREEMPTED=str(PREEMPTED),
        TERMINATED=str(128 + signal.SIGTERM),
    )
    if not given.wait:
        return f"#!/bin/bash\nset -eu\nsbatch {script.document(job)}", given.dry_run
    text = script.fill(
        _WAIT,
        PREEMPTED=str(PREEMPTED),
        DOCUMENT=script.document(job, background=True),
    )
    return text, given.dry_run


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
