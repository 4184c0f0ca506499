"""Strict configuration: files of primitives in, frozen dataclasses out.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict` of primitives.
`build` converts such a node once into a dataclass and refuses whatever it does not
know, by dotted path and with the nearest known name. Models and data pipelines never
see a ConfigDict. Standard library, absl and ml_collections only: anyone may import it.
"""

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags
from ml_collections import ConfigDict, config_flags

T = TypeVar("T")
_MISSING = re.compile(r"flag --(\w+)=None: Flag .* must have a value other than None")
flags.disclaim_key_flags()  # flags belong to the command line that defines them
_GROUPS = (ConfigDict, Mapping)  # what may stand where fields are expected


class UserError(Exception):
    """A fault the user can mend; its message is one sentence or a few.

    Command lines end with the message and exit code 1, without a traceback.
    """


class ConfigError(UserError, ValueError):
    """A config names something unknown, lacks something or holds a wrong value."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint like "; did you mean 'steps'? Known: batch, steps." or "."."""
    names = sorted(known)
    if not names:
        return "."
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names)}."


def positive(config: Any, *names: str) -> None:
    """Refuse a config in which one of the fields `names` is below 1.

    Raises:
        ValueError: naming the field; `build` adds where the config stands.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}.")


def below_one(config: Any, *names: str) -> None:
    """Refuse a config in which one of the fields `names` is not in [0, 1).

    Raises:
        ValueError: naming the field; `build` adds where the config stands.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), not {getattr(config, name)}.")


def plain(node: Any) -> Any:
    """Return `node` as dicts, tuples and primitives, whatever it was made of."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {f.name: plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
    if isinstance(node, _GROUPS):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return tuple(plain(value) for value in node)
    return node


def contains(complete: Any, written: Any) -> bool:
    """Say whether complete plain values agree with those that are written.

    Args:
        complete: as it was used, with every default.
        written: as a config file has it: what it leaves out is not compared.
    """
    return not differences(complete, written)


def differences(complete: Any, written: Any, path: str = "") -> list[str]:
    """Say in which fields complete plain values are not those that are written.

    Args:
        complete: as in `contains`.
        written: likewise.
        path: of both, in the config.
    """
    if not (isinstance(written, Mapping) and isinstance(complete, Mapping)):
        same = complete == written
        return [] if same else [f"{path} is {complete!r} and not {written!r}"]
    found: list[str] = []
    for key, value in written.items():
        at = f"{path}.{key}".lstrip(".")
        if key in complete:
            found += differences(complete[key], value, at)
        else:
            found.append(f"{at} is not set and not {value!r}")
    return found


def build(cls: type[T], node: Any, path: str = "config") -> T:
    """Convert a node of primitives into the dataclass `cls`, strictly.

    Args:
        cls: a dataclass; nested dataclasses, `tuple[X, ...]`, `tuple[X, Y]`,
            `Mapping[str, X]`, `X | None`, `Literal` and primitives are converted.
            A field without a default must be present; integers are accepted as floats.
        node: a ConfigDict, a mapping, or an instance of `cls` (returned as it is).
        path: where `node` stands in the config, for messages.

    Raises:
        ConfigError: naming the dotted path, what is wrong and what was expected.
    """
    if isinstance(node, cls):
        return node
    if not isinstance(node, _GROUPS):
        raise ConfigError(f"{path}: expected a group of fields, found {node!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore[reportArgumentType]
    values = {}
    for key, value in node.items():
        if key not in fields:
            raise ConfigError(f"{path}.{key}: unknown name{nearest(key, fields)}")
        values[key] = _convert(hints[key], value, f"{path}.{key}")
    for name, field in fields.items():
        absent = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if absent and name not in values:
            raise ConfigError(f"{path}.{name}: missing, and it has no default.")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:  # noqa: PLR0911
    """Convert one value to the annotated type `hint`, or raise ConfigError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return plain(value)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type", hint), value, path)
    if origin is typing.Literal:
        return _choose(arguments, value, path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is tuple:
        return _convert_tuple(arguments, value, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, _GROUPS):
            raise ConfigError(f"{path}: expected a group of names, found {value!r}.")
        inner = arguments[1]
        return {k: _convert(inner, v, f"{path}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is an int to Python, not to a reader of configs.
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ConfigError(f"{path}: expected {_name(hint)}, found {value!r}.")


def _convert_union(members: Sequence[Any], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    present = [member for member in members if member is not type(None)]
    if len(present) == 1:
        return _convert(present[0], value, path)
    for member in present:
        try:
            return _convert(member, value, path)
        except ConfigError:
            continue
    expected = " or ".join(_name(member) for member in members)
    raise ConfigError(f"{path}: expected {expected}, found {value!r}.")


def _convert_tuple(members: Sequence[Any], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path}: expected a tuple, found {value!r}.")
    if len(members) == 2 and members[1] is Ellipsis:
        members = [members[0]] * len(value)
    if len(members) != len(value):
        raise ConfigError(
            f"{path}: expected {len(members)} values, found {len(value)}: {value!r}."
        )
    return tuple(
        _convert(member, item, f"{path}[{i}]")
        for i, (member, item) in enumerate(zip(members, value, strict=True))
    )


def _choose(choices: Sequence[Any], value: Any, path: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    hint = nearest(str(value), map(str, choices))
    raise ConfigError(f"{path}: {value!r} is not among the choices{hint}")


def _name(hint: Any) -> str:
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def render(config: Any, path: str = "config") -> str:
    """Print a config in full: one `path.to.field = value` a line, in stable order.

    Dataclass fields keep their order of declaration, names of mappings are sorted.
    """
    lines: list[str] = []

    def visit(node: Any, at: str) -> None:
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            items = [(f.name, getattr(node, f.name)) for f in dataclasses.fields(node)]
        elif isinstance(node, _GROUPS):
            items = sorted((str(key), value) for key, value in node.items())
        else:
            lines.append(f"{at} = {plain(node)!r}")
            return
        if not items:
            lines.append(f"{at} = {{}}")
        for key, value in items:
            visit(value, f"{at}.{key}")

    visit(config, path)
    return "\n".join(lines) + "\n"


class _FileParser(flags.ArgumentParser):
    """Loads a config file so that any field can be overridden, also an absent one.

    config_flags knows only the fields a file writes down, with the types they have
    there. Fields that are left at their defaults are added here and other types are
    left to `build`, which knows them all.
    """

    def __init__(self, name: str, loader: flags.ArgumentParser) -> None:
        self._prefix = f"{name}."
        self._loader = loader

    def parse(self, path: str) -> ConfigDict:
        """Return `get_config()` of the file, ready for the overrides of sys.argv."""
        file = Path(path.split(":", 1)[0])
        if not file.is_file():
            beside = file.parent.glob("*.py") if file.parent.is_dir() else ()
            names = [str(p) for p in beside if p.name != "__init__.py"]
            raise ConfigError(f"there is no such file{nearest(str(file), names)}")
        config = self._load(path)
        if not isinstance(config, ConfigDict):
            raise ConfigError(
                f"get_config() returned {type(config).__name__}, "
                "but a ConfigDict is needed."
            )
        config = _unshare(config)
        for argument in sys.argv[1:]:
            name = argument.lstrip("-").split("=", 1)[0].removeprefix("no")
            if argument.startswith("-") and name.startswith(self._prefix):
                _make_room(config, name.removeprefix(self._prefix).split("."))
        return config

    def _load(self, path: str) -> object:
        """Return what `get_config` of the file returns; its faults are a sentence."""
        file, _, word = path.partition(":")
        try:
            return self._loader.parse(path)
        except AttributeError as error:
            if error.name != "get_config":
                raise
            raise ConfigError(
                f"{file} has no get_config(), which returns the config."
            ) from error
        except (TypeError, ValueError) as error:
            given = repr(word) if word else ""
            # The loader puts a traceback into the words of its own error.
            said = str(error.__context__ or error).rstrip(".")
            raise ConfigError(f"get_config({given}) fails: {said}.") from error


def _unshare(node: ConfigDict) -> ConfigDict:
    """Copy a config so that no two places hold one group; references stay.

    ConfigDict keeps a dict that a file uses twice as one group, so that an override in
    one place would silently change the other.
    """
    copy = ConfigDict()
    for name, value in node.items(preserve_field_references=True):
        copy[name] = _unshare(value) if isinstance(value, ConfigDict) else value
    return copy


def _make_room(config: ConfigDict, path: Sequence[str]) -> None:
    """Let config_flags set the field at `path`, its type to be checked by `build`."""
    if not all(name.isidentifier() for name in path):
        raise ConfigError(f"{'.'.join(path)!r} is not a path of names.")
    node = config
    for depth, name in enumerate(path[:-1], 1):
        if node.get(name) is None:
            node[name] = ConfigDict()
        child = node[name]
        if not isinstance(child, ConfigDict):
            at = ".".join(path[:depth])
            raise ConfigError(f"{at} is a value, so there is no {'.'.join(path)}.")
        node = child
    if path[-1] in node and not isinstance(node[path[-1]], str | ConfigDict):
        del node[path[-1]]


def define_flag(name: str = "config", *, required: bool = True) -> flags.FlagHolder:
    """Define `--config FILE` with `--config.path.to.field=value` overrides."""
    holder = config_flags.DEFINE_config_file(
        name,
        help_string="Config file; any of its fields can be overridden: --config.a.b=1",
        lock_config=False,
        accept_new_attributes=True,
    )
    flags.FLAGS[name].parser = _FileParser(name, flags.FLAGS[name].parser)
    flags.register_validator(
        name,
        lambda value: value is not None or not required,
        f"name a file: --{name}=configs/FILE.py.",
    )
    return holder


def sentence(error: OSError) -> str:
    """Say which file cannot be read or written, and why."""
    return f"{error.filename or 'writing a file'}: {error.strerror or error}."


def run(main: Callable[[], None]) -> None:
    """Run a command line: parse the flags, call `main`, end faults in a sentence.

    A `UserError`, or a file that cannot be read or written, prints its message to the
    standard error output and exits with code 1; any other exception is a fault of the
    program and keeps its traceback.
    """

    def parse(argv: Sequence[str]) -> None:
        try:
            rest = flags.FLAGS(argv)[1:]
        except SystemExit:  # by --help, which is no fault
            sys.exit(0)
        except flags.UnrecognizedFlagError as error:
            known = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
            hint = nearest(error.flagname, [flag.name for flag in known])
            _fail(f"there is no flag --{error.flagname}{hint}")
        except flags.Error as error:
            missing = _MISSING.match(str(error))
            if missing is None:
                _fail(error)
            meaning = flags.FLAGS[missing[1]].help
            _fail(f"--{missing[1]} is missing: {meaning[:1].lower()}{meaning[1:]}")
        if rest:
            _fail(f"unexpected argument {rest[0]!r}; fields are set as --name=value.")

    def guarded(_: object) -> None:
        try:
            main()
        except UserError as error:
            _fail(error)
        except OSError as error:
            _fail(sentence(error))

    app.run(guarded, flags_parser=parse)


def _fail(message: object) -> typing.NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
