"""From plain values to frozen dataclasses, strictly, and back to plain values."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from ml_collections import ConfigDict

from unitoken_jax.config.bounds import NONE_IS_DEFAULT, Bounds
from unitoken_jax.config.kinds import Dataclass, Kinds, refuse_old_kind
from unitoken_jax.errors import ConfigError, nearest, shown
from unitoken_jax.renamed import FIELDS, now_called

T = TypeVar("T")
DataclassT = TypeVar("DataclassT", bound=Dataclass)
_GROUPS = (ConfigDict, Mapping)  # what may stand where fields are expected
_ANY_NUMBER = Bounds()


def plain(node: object) -> Any:
    """Return `node` as dicts, tuples and primitives, whatever it was made of."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {f.name: plain(_complete(node, f)) for f in dataclasses.fields(node)}
    if isinstance(node, _GROUPS):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return tuple(plain(value) for value in node)
    return node


def _complete(node: Dataclass, field: dataclasses.Field[object]) -> object:
    """Return the value of a field, with the kind of what is of one."""
    value = getattr(node, field.name)
    kinds = _kinds_of(field.type)
    if kinds is None or not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return plain(kinds.complete(value))


def _kinds_of(hint: object) -> Kinds[Dataclass] | None:
    """Return what a field's annotation chooses among, if it does."""
    found = [extra for extra in typing.get_args(hint)[1:] if isinstance(extra, Kinds)]
    return found[0] if found else None


def contains(complete: object, written: object) -> bool:
    """Say whether complete plain values agree with those that are written.

    Args:
        complete: as it was used, with every default.
        written: as a config file has it: what it leaves out is not compared.
    """
    return not differences(complete, written)


def differences(complete: object, written: object, path: str = "") -> list[str]:
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
        inner = f"{path}.{key}".lstrip(".")
        if key in complete:
            found += differences(complete[key], value, inner)
        else:
            found.append(f"{inner} is not set and not {value!r}")
    return found


def build(cls: type[T], node: object, path: str = "config") -> T:
    """Convert a node of primitives into the dataclass `cls`, strictly.

    Args:
        cls: a dataclass; nested dataclasses, `tuple[X, ...]`, `tuple[X, Y]`,
            `Mapping[str, X]`, `X | None`, `Literal` and primitives are converted.
            `Annotated[X, function]` calls function(value, dotted path) for the value,
            and `Annotated[X, Kinds(…)]` is the dataclass of the value's kind.
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


def build_kind(
    kinds: Kinds[DataclassT], node: object, path: str = "config"
) -> DataclassT:
    """Convert a node of primitives into the dataclass of its `kind`, strictly.

    Args:
        kinds: that there are.
        node: a ConfigDict or a mapping, or such a dataclass (returned as it is).
        path: where `node` stands in the config, for messages.

    Raises:
        ConfigError: as `build`; a field of other kinds is refused with theirs.
    """
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return typing.cast("DataclassT", node)
    if not isinstance(node, _GROUPS):
        raise ConfigError(f"{path}: expected a group of fields, found {shown(node)}.")
    return build(*kinds.choose(plain(node), path), path)


def _convert(hint: object, value: object, path: str) -> object:  # noqa: PLR0911
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
    return _convert_primitive(typing.cast("type", hint), value, path)


def _convert_annotated(arguments: Sequence[Any], value: object, path: str) -> object:
    hint, *extras = arguments
    for extra in extras:
        if isinstance(extra, Kinds):
            return build_kind(extra, value, path)
    checks = [extra for extra in extras if callable(extra)]
    if hint in (int, float) and any(isinstance(check, Bounds) for check in checks):
        value = _convert_primitive(hint, value, path, bounds=None)
    else:
        value = _convert(hint, value, path)
    for check in checks:
        value = check(value, path)
    return value


def _convert_primitive(
    hint: type, value: object, path: str, bounds: Bounds | None = _ANY_NUMBER
) -> object:
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


def _convert_union(members: Sequence[object], value: object, path: str) -> object:
    if value is None and type(None) in members:
        return None
    present = [member for member in members if member is not type(None)]
    groups = [member for member in present if dataclasses.is_dataclass(member)]
    if isinstance(value, _GROUPS) and len(groups) == 1:
        present = groups
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


def _convert_tuple(
    members: Sequence[object], value: object, path: str
) -> tuple[object, ...]:
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


def _choose(choices: Sequence[object], value: object, path: str) -> object:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    if path.endswith(".kind"):
        refuse_old_kind(value, map(str, choices), path)
    hint = nearest(shown(value).strip("'"), map(str, choices))
    raise ConfigError(f"{path}: {shown(value)} is not among the choices{hint}")


def _name(hint: object) -> str:
    if typing.get_origin(hint) is Annotated:
        return _name(typing.get_args(hint)[0])
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def render(config: object, path: str = "config") -> str:
    """Print a config in full: one `path.to.field = value` a line, in stable order.

    Dataclass fields keep their order of declaration, names of mappings are sorted.
    """
    lines: list[str] = []

    def visit(node: object, config_path: str) -> None:
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            items = [(f.name, _complete(node, f)) for f in dataclasses.fields(node)]
        elif isinstance(node, _GROUPS):
            items = sorted((str(key), value) for key, value in node.items())
        else:
            lines.append(f"{config_path} = {plain(node)!r}")
            return
        if not items:
            lines.append(f"{config_path} = {{}}")
        for key, value in items:
            visit(value, f"{config_path}.{key}")

    visit(config, path)
    return "\n".join(lines) + "\n"
