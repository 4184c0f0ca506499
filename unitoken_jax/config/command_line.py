"""Command lines: `--config FILE`, overrides of its fields, and faults as sentences."""

import re
import sys
import typing
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from unitoken_jax.config.fields import DEEPEST, set_fields
from unitoken_jax.config.sources import load_file
from unitoken_jax.errors import (
    REFUSED,
    ConfigError,
    UserError,
    exit_code,
    nearest,
    sentence,
    shown,
)

_MISSING = re.compile(r"flag --(\w+)=None: Flag .* must have a value other than None")
flags.disclaim_key_flags()  # flags belong to the command line that defines them
_OVERRIDE = re.compile(
    r"--?(?P<no>no)?(?P<flag>\w+?)\.(?P<path>[^=]*)(=(?P<value>.*))?", re.DOTALL
)
_FLAG = re.compile(r"--?[A-Za-z]")  # rather than a negative number


class _FileParser(flags.ArgumentParser):
    """Loads a config file."""

    syntactic_help = "a config file"

    def parse(self, argument: str) -> dict[str, object]:
        """Return the config of the file, or raise the sentence that `run` prints."""
        return load_file(argument)

    def flag_type(self) -> str:
        """Name the type in --help."""
        return "config file"


class _ConfigFlag(flags.Flag):
    """`--config FILE` and what the command line sets of its fields.

    Attributes:
        overrides: (path, value) in their order; a flag without a value is a bool.
    """

    overrides: tuple[tuple[str, str | bool], ...] = ()


def define_flag(name: str = "config", *, required: bool = True) -> flags.FlagHolder:
    """Define `--config FILE` with `--config.path.to.field=value` overrides.

    The value is a dict of plain values, or None; without a file the overrides stand in
    `overrides`.
    """
    flag = _ConfigFlag(
        parser=_FileParser(),
        serializer=flags.ArgumentSerializer(),
        name=name,
        default=None,
        help_string=(
            "Config file; any of its fields can be overridden: --config.a.b=1"
        ),
    )
    holder = flags.DEFINE_flag(flag, module_name=sys.argv[0])
    flags.register_validator(
        name,
        lambda value: value is not None or not required,
        f"name a file: --{name}=configs/FILE.py.",
    )
    return holder


def overrides(name: str = "config") -> tuple[tuple[str, str | bool], ...]:
    """Return the fields that the command line sets, as `set_field` takes them."""
    if name not in flags.FLAGS:  # as where the program's functions are used
        return ()
    flag = flags.FLAGS[name]
    return flag.overrides if isinstance(flag, _ConfigFlag) else ()


def _take_overrides(argv: Sequence[str]) -> list[str]:
    """Put overrides into the flags they belong to; return the other words.

    Raises:
        ConfigError: an override has a value where it may not, or undoes another.
    """
    found: dict[str, list[tuple[str, str | bool]]] = {
        name: [] for name in flags.FLAGS if isinstance(flags.FLAGS[name], _ConfigFlag)
    }
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":  # what follows is no flag
            rest += [word, *words]
            break
        match = _OVERRIDE.fullmatch(word)
        if match is None or match["flag"] not in found:
            rest.append(word)
            continue
        value: str | bool
        if match["no"]:
            value = False
            if match["value"] is not None:
                raise ConfigError(
                    f"--no{match['flag']}.{shown(match['path'])[1:-1]} takes no value: "
                    "it sets the field to False."
                )
        elif match["value"] is not None:
            value = match["value"]
        elif words and not _FLAG.match(words[0]):
            value = words.pop(0)
        else:
            value = True
        found[match["flag"]].append((match["path"], value))
    for name, chosen in found.items():
        _check_order(name, [path for path, _ in chosen])
        typing.cast("_ConfigFlag", flags.FLAGS[name]).overrides = tuple(chosen)
    return rest


def _check_order(name: str, paths: Sequence[str]) -> None:
    """Refuse a group that is set after one of its fields, which would be lost."""
    inner: dict[str, str] = {}
    for path in paths:
        if path in inner:
            raise ConfigError(
                f"--{name}.{path} comes after --{name}.{inner[path]} and would undo "
                "it; put it first."
            )
        ends = [i for i, letter in enumerate(path) if letter == "."][:DEEPEST]
        inner |= {path[:end]: path for end in ends}


def _apply_overrides() -> None:
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag, _ConfigFlag) and flag.value is not None:
            set_fields(flag.value, flag.overrides, name)


def run(main: Callable[[], None]) -> None:
    """Run a command line: parse the flags, call `main`, end faults in a sentence.

    A `UserError`, or a file that cannot be read or written, prints its message to the
    standard error output and ends with its `errors.exit_code`; any other exception is a
    fault of the program, keeps its traceback and ends with 1.
    """

    def parse(argv: Sequence[str]) -> None:
        try:
            words = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
            rest = flags.FLAGS([argv[0], *_take_overrides(words)])[1:]
            _apply_overrides()
        except SystemExit:  # by --help, which is no fault
            sys.exit(0)
        except UserError as error:
            _fail(error, exit_code(error))
        except flags.UnrecognizedFlagError as error:
            known = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
            hint = nearest(error.flagname, [flag.name for flag in known])
            _fail(f"there is no flag --{error.flagname}{hint}")
        except flags.Error as error:
            cause = error.__context__
            if isinstance(cause, UserError) and str(cause).startswith("--"):
                _fail(cause)  # which names the flag itself
            missing = _MISSING.match(str(error))
            if missing is None:
                _fail(error)
            meaning = flags.FLAGS[missing[1]].help
            _fail(f"--{missing[1]} is missing: {meaning[:1].lower()}{meaning[1:]}")
        if rest:
            _fail(f"unexpected argument {rest[0]!r}; fields are set as --name=value.")
        if flags.FLAGS["verbosity"].using_default_value:
            # Else absl prints what libraries merely mention: JAX, that there is no TPU.
            flags.FLAGS.verbosity = logging.WARNING

    try:
        app.run(lambda _: main(), flags_parser=parse)
    except UserError as error:
        _fail(error, exit_code(error))
    except OSError as error:
        _fail(sentence(error), exit_code(error))


def _fail(message: object, code: int = REFUSED) -> typing.NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
