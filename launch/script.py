"""Shell scripts as the launchers write them: quoted, printed or run.

A launcher is a function from options to one script, so that what `--dry_run` prints is
exactly what would run, and can be kept, read and run by hand.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from launch import signals
from unitoken_jax.config import UserError

TRAIN = ("python", "-m", "unitoken_jax.train")
WORKER = ("python", "-m", "launch.worker", "--")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", 0, []):
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Refuses words in a sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}.")


def at_least(least: int) -> Callable[[str], int]:
    """Return a type of options: whole numbers that are not below one."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of {least} or more, found {text!r}"
            )
        return number

    return convert


def check_env_file(path: str) -> None:
    """Refuse a file of variables that is not on this machine; '' is none."""
    if path and not Path(path).is_file():
        raise UserError(
            f"--env_file={path}: there is no such file; name one of NAME=VALUE lines."
        )


def parser(module: str, summary: str) -> argparse.ArgumentParser:
    """Return a parser with what all launchers understand.

    Args:
        module: of the launcher, 'slurm'.
        summary: what it does.
    """
    made = _Parser(
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


def document(text: str, mark: str = "END", *, background: bool = False) -> str:
    """Return a here-document; nothing in `text` is expanded.

    Args:
        text: of the document.
        mark: the line that ends it.
        background: whether the command that reads it is not waited for.
    """
    if mark in text.splitlines():
        raise UserError(f"a line of the document is {mark!r}, which would end it.")
    return f"<<'{mark}'{' &' if background else ''}\n{text.rstrip()}\n{mark}\n"


def fill(template: str, **values: str) -> str:
    """Put values into a script where their names stand between two @.

    A value is not searched for the names of others.
    """
    return re.sub("@([A-Z]+)@", lambda found: values[found[1]], template)


def quote(words: Sequence[str]) -> str:
    """Join words to one line of shell."""
    return shlex.join(words)


def run(
    render: Callable[[Sequence[str]], tuple[str, bool]], words: Sequence[str]
) -> int:
    """Run a script with bash, or print it; return its exit code.

    SIGTERM, SIGINT and SIGHUP are passed on to bash and what it runs in the foreground;
    a script that has more to do then has a trap.

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
        return signals.supervise(["bash", "-c", text], os.killpg)
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
