"""Shell scripts as the launchers write them: quoted, printed or run.

A launcher is a function from options to one script, so that what `--dry_run` prints is
exactly what would run, and can be kept, read and run by hand.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence

from unitoken_jax.config import UserError

TRAIN = ("python", "-m", "unitoken_jax.train")
WORKER = ("python", "-m", "launch.worker", "--")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", 0, []):
            return action.help
        return super()._get_help_string(action)


def parser(module: str, summary: str) -> argparse.ArgumentParser:
    """Return a parser with what all launchers understand.

    Args:
        module: of the launcher, 'slurm'.
        summary: what it does.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m launch.{module}",
        description=summary,
        formatter_class=_Help,
    )
    made.add_argument("--name", default="unitoken", help="of the run")
    made.add_argument(
        "--dry_run", action="store_true", help="print what would run, run nothing"
    )
    made.add_argument(
        "--wait", action="store_true", help="end when the run has ended, with its code"
    )
    made.add_argument(
        "arguments",
        nargs="*",
        metavar="-- ARGUMENTS",
        help="of python -m unitoken_jax.train",
    )
    return made


def train_command(arguments: Sequence[str], *, joined: bool) -> list[str]:
    """Return the command of one process.

    Args:
        arguments: of the training.
        joined: whether it joins the other processes of the cluster it finds itself on.

    Raises:
        UserError: there are no arguments.
    """
    if not arguments:
        raise UserError(
            "nothing to run: put the arguments of python -m unitoken_jax.train "
            "behind --, such as -- --config configs/quickstart.py --workdir runs/a."
        )
    auto = ["--coordinator=auto"] if joined else []
    return [*TRAIN, *arguments, *auto]


def document(text: str, mark: str = "END") -> str:
    """Return a here-document; nothing in `text` is expanded."""
    if mark in text.splitlines():
        raise UserError(f"a line of the document is {mark!r}, which would end it.")
    return f"<<'{mark}'\n{text.rstrip()}\n{mark}\n"


def quote(words: Sequence[str]) -> str:
    """Join words to one line of shell."""
    return shlex.join(words)


def run(
    render: Callable[[Sequence[str]], tuple[str, bool]], words: Sequence[str]
) -> int:
    """Run a script with bash, or print it; return its exit code.

    Args:
        render: words of a command line → the script, and whether to print it only.
        words: of the command line.
    """
    text, dry_run = render(words)
    if dry_run:
        print(text, end="")
        return 0
    sys.stdout.flush()
    try:
        return subprocess.run(["bash", "-c", text], check=False).returncode
    except OSError as error:
        raise UserError(f"bash cannot be started: {error.strerror}.") from error


def main(launcher: Callable[[Sequence[str]], int]) -> None:
    """Run a launcher with the words of the command line; end faults in a sentence."""
    try:
        code = launcher(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)
