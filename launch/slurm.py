"""A SLURM job: python -m launch.slurm --nodes 2 [--partition P] -- ARGUMENTS.

One process a node, joined by what SLURM tells them. The job is told two minutes before
its time is over, saves, and queues itself again; preempted jobs and those that lost a
node are queued again by SLURM.
"""

import argparse
import itertools
import re
import signal
from collections.abc import Sequence
from functools import partial

from launch import script
from launch.signals import PREEMPTED
from unitoken_jax.errors import REFUSED, UserError
from unitoken_jax.files import user_path

_LEAST_TIME = 600  # seconds; shorter stretches would save nothing, again and again
_SUMMARY = "Submit a SLURM job of one process a node."

# Filled by script.fill: shell's own braces stay as they are.
_JOB = """\
#!/bin/bash
@OPTIONS@
set -u
fail() { echo "error: $1" >&2; exit @REFUSED@; }
@VARIABLES@@PLATFORM@activate=@ACTIVATE@
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


_TAKEN = {
    **dict.fromkeys(("--job-name", "-J"), "use --name"),
    **dict.fromkeys(("--nodes", "-N"), "use --nodes"),
    **dict.fromkeys(("--time", "-t"), "use --time"),
    **dict.fromkeys(("--output", "-o"), "use --logs"),
    **dict.fromkeys(("--partition", "-p"), "use --partition"),
    **dict.fromkeys(("--account", "-A"), "use --account"),
    **dict.fromkeys(("--qos", "-q"), "use --qos"),
    **dict.fromkeys(("--constraint", "-C"), "use --constraint"),
    **dict.fromkeys(("--cpus-per-task", "-c"), "use --cpus"),
    **dict.fromkeys(
        ("--ntasks", "-n", "--ntasks-per-node"), "there is one process a node"
    ),
    **dict.fromkeys(("--wait", "-W"), "use --wait"),
    **dict.fromkeys(("--array", "-a"), "a sweep runs several"),
    "--reservation": "use --reservation",
    "--gpus-per-node": "use --gpus",
    "--open-mode": "one log is of all stretches",
    "--requeue": "the job is queued again",
    "--no-requeue": "the job is queued again",
    "--signal": "the job is told two minutes before its end",
    "--comment": "--wait finds the job by it",
    "--wrap": "put the arguments of the training behind --",
}


def _time(text: str) -> str:
    """Refuse a limit in which no run can start, step and save."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None and text.upper() in ("UNLIMITED", "INFINITE"):
        return text
    if found is None or len(text) > 20:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no limit of sbatch: give MINUTES, "
            "HOURS:MINUTES:SECONDS, DAYS-HOURS:MINUTES:SECONDS or UNLIMITED"
        )
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


def words_of(line: str) -> list[str]:
    """Return the words of a line as sbatch reads them behind #SBATCH.

    Quotes group, also blanks; a backslash takes the next letter as it is, within quotes
    as well; # outside of quotes begins a comment.

    Raises:
        ValueError: a quote is not closed.
    """
    words: list[str] = []
    word, quote = "", ""
    letters = iter(line)
    for letter in letters:
        if letter == "\\":
            word += next(letters, "")
        elif quote:
            quote, word = ("", word) if letter == quote else (quote, word + letter)
        elif letter in "\"'":
            quote = letter
        elif letter == "#":
            break
        elif letter.isspace():
            words.append(word)
            word = ""
        else:
            word += letter
    if quote:
        raise ValueError(f"a quote {quote} is not closed")
    return [word for word in [*words, word] if word]


def directive(option: str) -> str:
    """Return an option as a line that sbatch reads back as it is."""
    if re.fullmatch(r"[\w=.,:/%@+-]+", option, re.ASCII):
        return f"#SBATCH {option}"
    if not set(option) & {"'", "\\"}:
        return f"#SBATCH '{option}'"
    inner = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'#SBATCH "{inner}"'


def _parser() -> argparse.ArgumentParser:
    parser = script.parser("slurm", _SUMMARY, "cuda")
    one, none = script.at_least(1), script.at_least(0)
    parser.add_argument("--nodes", type=one, default=1, help="one process each")
    parser.add_argument("--gpus", type=none, default=0, help="of each node")
    parser.add_argument("--cpus", type=none, default=0, help="of each process")
    parser.add_argument(
        "--time", type=_time, default="24:00:00", help="limit of one stretch"
    )
    parser.add_argument("--partition", default="", help="'' is the cluster's default")
    parser.add_argument("--account", default="", help="that is charged; '' is yours")
    parser.add_argument("--qos", default="", help="quality of service")
    parser.add_argument("--constraint", default="", help="features of the nodes")
    parser.add_argument("--reservation", default="", help="whose nodes are used")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar=script.FLAG,
        help="further lines, --sbatch='#SBATCH --exclusive'",
    )
    parser.add_argument("--logs", default="slurm-%x-%j.log", help="file pattern")
    parser.add_argument(
        "--environment", default=".venv", help="virtual environment, seen by all nodes"
    )
    parser.add_argument(
        "--env_file",
        default="",
        help="variables and secrets, NAME=VALUE a line, seen by all nodes",
    )
    return parser


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that submits the job, and whether to print it only.

    Raises:
        UserError: there is nothing to run, or an option has a line break.
    """
    given = _parser().parse_args(words)
    joined = given.nodes > 1
    variables = ""
    if given.env_file:
        file = str(user_path(given.env_file, "--env_file"))
        variables = script.fill(_VARIABLES, FILE=script.quote([file]))
    environment = user_path(given.environment, "--environment")
    command = [*script.WORKER, *script.train_command(given.arguments, joined=joined)]
    platform = script.platform(given.platform)
    job = script.fill(
        _JOB,
        OPTIONS="\n".join([*map(directive, _options(given)), *_lines(given)]),
        VARIABLES=variables,
        PLATFORM="".join(
            f"export {name}={script.quote([text])}\n" for name, text in platform.items()
        ),
        ACTIVATE=script.quote([f"{environment}/bin/activate"]),
        COMMAND=script.quote(command),
        PREEMPTED=str(PREEMPTED),
        REFUSED=str(REFUSED),
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


def _options(given: argparse.Namespace) -> list[str]:
    """Return the options of sbatch that the launcher's own become."""
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
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        if value := getattr(given, name):
            options.append(f"--{name}={value}")
    for option in options:
        if "\n" in option or "\r" in option:
            raise UserError(f"{option!r} has a line break; write it in one line.")
    return options


def _lines(given: argparse.Namespace) -> list[str]:
    """Return further lines for sbatch as they were given, without what is not one."""
    lines = []
    for line in given.sbatch:
        if "\n" in line or "\r" in line:
            raise UserError(f"--sbatch={line!r} has a line break; give one each.")
        rest = line.removeprefix("#SBATCH").strip()
        try:
            found = words_of(rest)
        except ValueError as error:
            raise UserError(f"--sbatch={line!r}: {error}.") from error
        if not found or not all(_may_follow(*pair) for pair in _pairs(found)):
            raise UserError(
                f"--sbatch={line!r} is no line of sbatch: expected options, such as "
                "'#SBATCH --exclusive'."
            )
        for word in found:
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            if name in _TAKEN:
                raise UserError(
                    f"--sbatch={line!r}: {name} is set by the launcher; {_TAKEN[name]}."
                )
        lines.append(f"#SBATCH {rest}")
    return lines


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(["value", *words]))


def _may_follow(before: str, word: str) -> bool:
    """Say whether a word may stand there: an option, or the value of one."""
    is_option = re.match("--?[A-Za-z]", word) is not None
    return is_option or (before.startswith("-") and "=" not in before)


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
