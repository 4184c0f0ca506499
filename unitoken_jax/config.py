"""Strict configuration: files of primitives in, frozen dataclasses out.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict` of primitives.
`build` converts such a node once into a dataclass and refuses whatever it does not
know, by dotted path and with the nearest known name. Models and data pipelines never
see a ConfigDict. What a field may hold beside its type is said by its annotation,
`Annotated[int, Bounds(1)]`; the usual ones have names (`Count`, `Share`, `Seed`, …).
Any field can be set on the command line, see `set_field`. Anyone may import it.
"""

import ast
import dataclasses
import difflib
import importlib.util
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Annotated, Any, TypeVar

from absl import app, flags, logging
from ml_collections import ConfigDict

from unitoken_jax.errors import ConfigError, UserError
from unitoken_jax.files import user_path
from unitoken_jax.renamed import FIELDS, KINDS, now_called

T = TypeVar("T")
_MISSING = re.compile(r"flag --(\w+)=None: Flag .* must have a value other than None")
flags.disclaim_key_flags()  # flags belong to the command line that defines them
_GROUPS = (ConfigDict, Mapping)  # what may stand where fields are expected
_OVERRIDE = re.compile(
    r"--?(?P<no>no)?(?P<flag>\w+?)\.(?P<path>[^=]*)(=(?P<value>.*))?", re.DOTALL
)
_FLAG = re.compile(r"--?[A-Za-z]")  # rather than a negative number


_LARGEST_INT = 2**31 - 1  # of int32, in which ids, steps and sizes are counted
_LARGEST_FLOAT = 3.4028234e38  # of float32
_SMALLEST_FLOAT = 1.1754944e-38  # normal, of float32: below it, there is 0
_DEEPEST = 32  # names in the path of a field
_SHOWN = 100  # letters of a value that a message repeats


def shown(value: Any) -> str:
    """Return the representation of a value for a message, cut if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 10]}… ({len(text)} long)"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Which numbers a field may hold: `Annotated[float, Bounds(0, most=1)]`.

    Fields without bounds hold what int32 or float32 can; NaN and infinity are refused
    everywhere.

    Attributes:
        least: the smallest that may be.
        most: the greatest that may be.
        above: every number must exceed it.
        below: every number must stay below it.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __call__(self, value: Any, at: str) -> Any:
        """Return `value` if it is within the bounds.

        Raises:
            ConfigError: naming the field `at` and the bounds.
        """
        whole = isinstance(value, int)
        largest = _LARGEST_INT if whole else _LARGEST_FLOAT
        least = -largest - whole if self.least is None else self.least
        most = largest if self.most is None else self.most
        # Written so that NaN fails.
        good = least <= value <= most
        if self.above is not None:
            good = good and value > self.above
            good = good and (whole or self.above != 0 or value >= _SMALLEST_FLOAT)
        if self.below is not None:
            good = good and value < self.below
        if not good:
            low = f"at least {least:.10g}" if self.above is None else "above "
            low += "" if self.above is None else f"{self.above:g}"
            high = f"at most {most:.10g}" if self.below is None else "below "
            high += "" if self.below is None else f"{self.below:g}"
            raise ConfigError(f"{at}: must be {low} and {high}, not {shown(value)}.")
        return value


Count = Annotated[int, Bounds(1)]
"""A size, or a number of things of which there must be one."""
Natural = Annotated[int, Bounds(0)]
"""A number of things of which there may be none."""
Seed = Annotated[int, Bounds(0, most=2**32 - 1)]
"""A seed: JAX's keys have so many bits, and seeds beyond would repeat others."""
Amount = Annotated[float, Bounds(0)]
"""A weight or a scale, 0 or more."""
Positive = Annotated[float, Bounds(above=0)]
"""A rate or a scale that must exceed 0."""
Share = Annotated[float, Bounds(0, most=1)]
"""A probability or a share, in [0, 1]."""
ShareBelowOne = Annotated[float, Bounds(0, below=1)]
"""A rate of dropout or a decay, in [0, 1)."""
NONE_IS_DEFAULT = "None leaves the field at its default"
"""Metadata of a field: `Annotated[Mapping[str, str], NONE_IS_DEFAULT]`."""


def check_seed(value: int, at: str) -> int:
    """Return a seed that JAX and NumPy both take, and that repeats no other.

    Raises:
        ConfigError: it is not in [0, 2**32).
    """
    return typing.get_args(Seed)[1](value, at)


def _check_name(value: str, at: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", value):
        raise ConfigError(
            f"{at}: {shown(value)} is no name of a file or folder; use letters, "
            "digits, '-', '.' and '_', and begin with a letter or digit."
        )
    return value


Name = Annotated[str, _check_name]
"""A word that names a file or folder of ours."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint like "; did you mean 'steps'? Known: batch, steps." or "."."""
    names = sorted(known)
    if not names:
        return "."
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names)}."


def refuse_old_kind(value: object, known: Iterable[str], path: str) -> None:
    """Refuse a `kind` that has another name now.

    Args:
        value: as it was written.
        known: the kinds that there are.
        path: of the field, for messages.

    Raises:
        ConfigError: with the new name.
    """
    new = now_called(value, known, KINDS) if isinstance(value, str) else None
    if new:
        raise ConfigError(f"{path}={value} is called {path}={new} now.")


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
            `Annotated[X, function]` calls function(value, dotted path) for the value.
            A field without a default must be present; integers are accepted as floats.
        node: a ConfigDict, a mapping, or an instance of `cls` (returned as it is).
        path: where `node` stands in the config, for messages.

    Raises:
        ConfigError: naming the dotted path, what is wrong and what was expected.
    """
    if isinstance(node, cls):
        return node
    if not isinstance(node, _GROUPS):
        raise ConfigError(f"{path}: expected a group of fields, found {shown(node)}.")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore[reportArgumentType]
    values = {}
    for key, value in node.items():
        if key not in fields:
            if new := now_called(key, fields, FIELDS):
                raise ConfigError(f"{path}.{key} is called {path}.{new} now.")
            raise ConfigError(f"{path}.{key}: unknown name{nearest(key, fields)}")
        if value is None and NONE_IS_DEFAULT in typing.get_args(hints[key]):
            continue
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
    if origin is Annotated:
        return _convert_annotated(arguments, value, path)
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
            raise ConfigError(
                f"{path}: expected a group of names, found {shown(value)}."
            )
        inner = arguments[1]
        return {k: _convert(inner, v, f"{path}.{k}") for k, v in value.items()}
    return _convert_primitive(hint, value, path)


def _convert_annotated(arguments: Sequence[Any], value: Any, path: str) -> Any:
    hint, *extras = arguments
    checks = [extra for extra in extras if callable(extra)]
    if hint in (int, float) and any(isinstance(check, Bounds) for check in checks):
        value = _convert_primitive(hint, value, path, bounds=None)
    else:
        value = _convert(hint, value, path)
    for check in checks:
        value = check(value, path)
    return value


def _convert_primitive(
    hint: type, value: Any, path: str, bounds: Bounds | None = Bounds()
) -> Any:
    # bool is an int to Python, not to a reader of configs.
    if isinstance(value, bool) and hint is not bool:
        raise ConfigError(f"{path}: expected {_name(hint)}, found {value!r}.")
    if hint is float and isinstance(value, int):
        try:
            value = float(value)
        except OverflowError:
            raise ConfigError(f"{path}: {shown(value)} is too large.") from None
    if not isinstance(value, hint):
        raise ConfigError(f"{path}: expected {_name(hint)}, found {shown(value)}.")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool) and bounds:
        value = bounds(value, path)
    return value


def _check_text(text: str, path: str) -> None:
    """Refuse what no log could hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{path}: {shown(text)} is no text ({error.reason})."
        ) from None
    if "\0" in text:
        raise ConfigError(f"{path}: {shown(text)} holds a NUL.")


def _convert_union(members: Sequence[Any], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    present = [member for member in members if member is not type(None)]
    if len(present) == 1:
        return _convert(present[0], value, path)
    for member in present:
        if (typing.get_args(member) or (member,))[0] is type(value):
            return _convert(member, value, path)
    for member in present:
        try:
            return _convert(member, value, path)
        except ConfigError:
            continue
    expected = " or ".join(_name(member) for member in members)
    raise ConfigError(f"{path}: expected {expected}, found {shown(value)}.")


def _convert_tuple(members: Sequence[Any], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path}: expected a tuple, found {shown(value)}.")
    if len(members) == 2 and members[1] is Ellipsis:
        members = [members[0]] * len(value)
    if len(members) != len(value):
        raise ConfigError(
            f"{path}: expected {len(members)} values, found {len(value)}: "
            f"{shown(value)}."
        )
    return tuple(
        _convert(member, item, f"{path}[{i}]")
        for i, (member, item) in enumerate(zip(members, value, strict=True))
    )


def _choose(choices: Sequence[Any], value: Any, path: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    if path.endswith(".kind"):
        refuse_old_kind(value, map(str, choices), path)
    hint = nearest(shown(value).strip("'"), map(str, choices))
    raise ConfigError(f"{path}: {shown(value)} is not among the choices{hint}")


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        return _name(typing.get_args(hint)[0])
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


def split_file(given: str) -> tuple[Path, str | None]:
    """Part 'FILE.py:WORD' into the file and the word for its `get_config`.

    A path may hold colons itself: the first part of it that is a file is the file.

    Raises:
        ConfigError: there is no such file, or it cannot be a path.
    """
    user_path(given, "config")  # refuses addresses before their colon parts them
    ends = [len(given), *(i for i, letter in enumerate(given) if letter == ":")]
    for end in ends:
        file = user_path(given[:end] or ".", "config")
        if _is_file(file):
            return file, given[end + 1 :] if end < len(given) else None
    name = given if len(ends) == 1 else given[: ends[-1]]
    file = user_path(name or given, "config")
    try:
        beside = [str(p) for p in file.parent.glob("*.py") if p.name != "__init__.py"]
    except OSError:
        beside = []
    raise ConfigError(f"there is no such file{nearest(str(file), beside)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, for one
        return False


def load_file(given: str) -> dict[str, Any]:
    """Return what `get_config` of a config file returns, as plain values.

    Args:
        given: 'FILE.py' or 'FILE.py:WORD', where WORD is an argument of get_config.

    Raises:
        ConfigError: there is no such file, or it fails, whatever it raises: the message
            names the line.
    """
    file, word = split_file(given)
    spec = importlib.util.spec_from_file_location(
        "_unitoken_config", file, loader=SourceFileLoader("_unitoken_config", str(file))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # as dataclasses of the file expect
    call = "get_config()" if word is None else f"get_config({word!r})"
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(_failed(file, "it", error)) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{file} has no get_config(), which returns the config.")
    try:
        made = get_config() if word is None else get_config(word)
        if not isinstance(made, ConfigDict):
            raise ConfigError(
                f"{file}: get_config() returned {type(made).__name__}, but a "
                "ConfigDict is needed."
            )
        node = dict(plain(made))
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ConfigError(_failed(file, call, error)) from error
    for path, value in _odd_values(node):
        raise ConfigError(
            f"{file}: {path} is {shown(value)}, no value that a config can hold: write "
            "numbers, texts, None, tuples and dicts of them."
        )
    return node


def _odd_values(node: Any, path: str = "config") -> Iterable[tuple[str, Any]]:
    """Yield what is not plain, with its path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _odd_values(value, f"{path}.{key}")
    elif isinstance(node, tuple):
        for place, value in enumerate(node):
            yield from _odd_values(value, f"{path}[{place}]")
    elif not (node is None or isinstance(node, bool | int | float | str)):
        yield path, node


def _failed(file: Path, what: str, error: BaseException) -> str:
    """Say in a sentence how a config file fails, and in which line."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines = [error.lineno]
    at = f"{file}, line {lines[-1]}" if lines else str(file)
    try:
        said = str(error).rstrip(".")
    except Exception:  # its own class may be at fault
        said = ""
    said = " ".join(said.split())
    if isinstance(error, TypeError | ValueError) and said:
        return f"{at}: {what} fails: {said}."
    kind = type(error).__name__
    return f"{at}: {what} fails: {kind}{': ' if said else ''}{said}."


def set_field(node: dict[str, Any], path: str, text: str | bool) -> None:
    """Set a field of a config's plain values as the command line writes it.

    A text stays as it is where the config has a text; 'None' is no text there. What
    else Python can read as a number, a truth value, None, a tuple or a dict is that,
    `true` and `false` as well, and anything else is a text. A group can be set to None
    or to a dict. Types are checked by `build`.

    Args:
        node: the whole config, changed in place; what is missing above is made.
        path: of the field, names between dots.
        text: the value as it was written, or what a flag without a value means.

    Raises:
        ConfigError: there can be no such field, or no such value.
    """
    names = path.split(".")
    if len(names) > _DEEPEST or not all(names):
        raise ConfigError(f"{shown(path)} is not a path of names.")
    for depth, name in enumerate(names[:-1], 1):
        _check_key(node, name, path)
        if node.get(name) is None:
            node[name] = {}
        child = node[name]
        if not isinstance(child, dict):
            at = ".".join(names[:depth])
            raise ConfigError(f"{at} is a value, so there is no {path}.")
        node = child
    last = names[-1]
    _check_key(node, last, path)
    node[last] = _read_value(text, node.get(last), path)


def _check_key(node: Mapping[str, Any], name: str, path: str) -> None:
    if name not in node and not name.isidentifier():
        raise ConfigError(
            f"{shown(path)} is not a path of names."
            if name == path
            else f"{shown(path)} is not a path of names: {shown(name)} is none."
        )


def _read_value(text: str | bool, present: Any, path: str) -> Any:
    if isinstance(text, bool):
        return text
    if isinstance(present, str):
        return None if text == "None" else text
    value: Any = {"true": True, "false": False}.get(text)
    if value is None:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = text
    value = plain(value)
    if any(_odd_values(value)):
        raise ConfigError(f"{path}: {shown(text)} is no value that a config can hold.")
    if isinstance(present, dict) and not (value is None or isinstance(value, dict)):
        raise ConfigError(
            f"{path} is a group of fields, found {shown(value)}; set one of its "
            f"fields ({path}.NAME=VALUE), or give a dict or None."
        )
    return value


class _FileParser(flags.ArgumentParser):
    """Loads a config file."""

    syntactic_help = "a config file"

    def parse(self, argument: str) -> dict[str, Any]:
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
        ends = [i for i, letter in enumerate(path) if letter == "."][:_DEEPEST]
        inner |= {path[:end]: path for end in ends}


def _apply_overrides() -> None:
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag, _ConfigFlag) and flag.value is not None:
            set_fields(flag.value, flag.overrides, name)


def set_fields(
    node: dict[str, Any],
    fields: Iterable[tuple[str, str | bool]],
    name: str = "config",
) -> None:
    """Set several fields with `set_field`, in their order.

    Raises:
        ConfigError: as `set_field`, naming the flag.
    """
    for path, text in fields:
        try:
            set_field(node, path, text)
        except ConfigError as error:
            raise ConfigError(f"--{name}.{shown(path)[1:-1]}: {error}") from error


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
            words = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
            rest = flags.FLAGS([argv[0], *_take_overrides(words)])[1:]
            _apply_overrides()
        except SystemExit:  # by --help, which is no fault
            sys.exit(0)
        except UserError as error:
            _fail(error)
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
        if not flags.FLAGS["verbosity"].using_default_value:
            asked.append(flags.FLAGS.verbosity)

    asked: list[int] = []  # a --verbosity that was given

    def guarded(_: object) -> None:
        # Else absl prints what libraries merely mention: JAX, that there is no TPU.
        logging.set_verbosity(asked[0] if asked else logging.WARNING)
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
