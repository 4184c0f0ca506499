"""Shell scripts as the launchers write them: quoted, printed or run.

A launcher is a function from options to one script, so that what `--dry_run` prints is
exactly what would run, and can be kept, read and run by hand.
"""

import argparse
import contextlib
import itertools
import os
import posixpath
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from launch import signals
from unitoken_jax.errors import UserError, exit_code
from unitoken_jax.files import refuse_address, user_path

TRAIN = ("python", "-m", "unitoken_jax.train")
WORKER = ("python", "-m", "launch.worker", "--")
PLATFORMS = ("tpu", "cuda", "rocm", "cpu", "any")
FLAG = "FLAG"
"""Metavar of options whose value is an option of another program."""
PULLS = ("always", "missing", "never")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", 0, []):
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Refuses words in a sentence."""

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str]
    ) -> argparse.Namespace:
        """Parse words; what an option passes through may begin with a dash."""
        actions = [action for action in self._actions if action.metavar == FLAG]
        through = {name for action in actions for name in action.option_strings}
        end = args.index("--") if "--" in args else len(args)
        joined: list[str] = []
        given = iter(args[:end])
        for word in given:
            value = next(given, None) if word in through else None
            joined.append(word if value is None else f"{word}={value}")
        return super().parse_args([*joined, *args[end:]])

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}.")


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type of options: whole numbers not below one, nor above another."""
    limits = f"{least} or more" if most is None else f"{least} to {most}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(
                f"expected a whole number of {limits}, found {text!r}"
            )
        return number

    return convert


def filled(given: str) -> str:
    """Refuse an empty value, as a type of options that need one."""
    if not given.strip():
        raise argparse.ArgumentTypeError("is empty")
    return given


def env_file(path: str) -> str:
    """Return the whole path of a file of variables on this machine; '' is none.

    What stands before a colon in a shorter one, gcloud takes for a machine.

    Raises:
        UserError: there is no such file.
    """
    if not path:
        return ""
    found = user_path(path, "--env_file")
    if not found.is_file():
        raise UserError(
            f"--env_file={path}: there is no such file; name one of NAME=VALUE lines."
        )
    return str(found.absolute())


def check_flags(
    option: str, flags: Sequence[str], taken: Mapping[str, str], program: str
) -> None:
    """Refuse what cannot be passed through to another program.

    Args:
        option: that passes it.
        flags: as they were given.
        taken: flag of the program → how it is said to the launcher.
        program: their reader.

    Raises:
        UserError: a word is no flag, or the launcher sets it itself.
    """
    for flag in flags:
        name = flag.partition("=")[0]
        if not re.match("--?[A-Za-z]", flag) or name != name.strip():
            raise UserError(
                f"{option}={flag!r}: expected a flag of {program} in one word, such as "
                f"{option}=--name=value."
            )
        if name in taken:
            raise UserError(
                f"{option}={flag}: {name} is set by the launcher; {taken[name]}."
            )


def is_digest(image: str) -> bool:
    """Say whether a container is named by its content, which never changes.

    Raises:
        UserError: it is no name of a container, or its digest is cut.
    """
    if image.startswith("-") or image != image.strip():
        raise UserError(f"--image={image!r} is no name of a container.")
    if "@" in image and not _DIGEST.search(image):
        raise UserError(
            f"--image={image}: a digest is @sha256: and 64 digits from 0 to f."
        )
    return "@" in image


def pull(given: str, image: str) -> str:
    """Return the policy of `PULLS`; '' pulls a tag always, a digest if it is missing.

    Raises:
        UserError: as `is_digest`.
    """
    return given or ("missing" if is_digest(image) else "always")


def platform(chosen: str) -> dict[str, str]:
    """Return the variable by which JAX uses a platform of `PLATFORMS` or fails.

    Without it JAX would go on with the CPU where a TPU or GPU does not start.
    """
    return {"JAX_PLATFORMS": "" if chosen == "any" else chosen}


def parser(
    module: str, summary: str, platform: str | None = "tpu"
) -> argparse.ArgumentParser:
    """Return a parser with what all launchers understand.

    Args:
        module: of the launcher, 'slurm'.
        summary: what it does.
        platform: that JAX must use; None leaves it to the environment.
    """
    made = _Parser(
        prog=f"python -m launch.{module}",
        description=summary,
        formatter_class=_Help,
    )
    made.add_argument("--name", type=filled, default="unitoken", help="of the run")
    made.add_argument(
        "--platform",
        choices=PLATFORMS,
        default=platform,
        help="that JAX must use, or fail; any: it falls back to the CPU",
    )
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
        UserError: there are no arguments, or one is the address of a bucket.
    """
    if not arguments:
        raise UserError(
            "nothing to run: put the arguments of python -m unitoken_jax.train "
            "behind --, such as -- --config configs/quickstart.py --workdir runs/a."
        )
    _refuse_addresses(arguments)
    auto = ["--coordinator=auto"] if joined else []
    return [*TRAIN, *arguments, *auto]


def _refuse_addresses(arguments: Sequence[str]) -> None:
    """Refuse buckets among the arguments of the training, which it would refuse.

    Paths are those of the machine that trains and are not looked for here.
    """
    for word, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            refuse_address(value if equals else following or "", name)


def warn_of_loss(arguments: Sequence[str], targets: Sequence[str]) -> None:
    """Warn of a run's folder that lies within a container and is lost with it.

    Args:
        arguments: of the training; the last --workdir counts, as for it.
        targets: where the container has directories that outlast it.
    """
    workdir = None
    for word, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = word.partition("=")
        if name in ("--workdir", "-workdir"):
            workdir = value if equals else following
    if not workdir:
        return
    # A path that does not begin at the root is within the container as well.
    place = posixpath.normpath(workdir)
    kept = [posixpath.normpath(target) for target in targets]
    if not any(place == target or place.startswith(f"{target}/") for target in kept):
        with contextlib.suppress(OSError):  # nobody may be left to read it
            print(
                f"warning: --workdir={workdir} lies on nothing that is mounted "
                f"({', '.join(kept) or 'there is nothing'}): every checkpoint is lost "
                "with the container; name a folder on a mount.",
                file=sys.stderr,
                flush=True,
            )


def document(text: str, *, background: bool = False) -> str:
    """Return a here-document; nothing in `text` is expanded.

    Args:
        text: of the document.
        background: whether the command that reads it is not waited for.
    """
    # A line of the document that is the mark would end it.
    lines = set(text.split("\n"))
    marks = itertools.chain(["END"], (f"END{n}" for n in itertools.count(1)))
    mark = next(mark for mark in marks if mark not in lines)
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
        code = exit_code(error)
    sys.exit(code)
