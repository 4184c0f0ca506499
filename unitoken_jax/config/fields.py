"""Fields of a config as the command line sets them: `--config.train.steps=10`."""

import ast
from collections.abc import Iterable, Mapping

from unitoken_jax.config.schema import plain
from unitoken_jax.config.sources import odd_values
from unitoken_jax.errors import ConfigError, shown

DEEPEST = 32  # names in the path of a field


def set_field(node: dict[str, object], path: str, text: str | bool) -> None:
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
    if len(names) > DEEPEST or not all(names):
        raise ConfigError(f"{shown(path)} is not a path of names.")
    for depth, name in enumerate(names[:-1], 1):
        _check_key(node, name, path)
        if node.get(name) is None:
            node[name] = {}
        child = node[name]
        if not isinstance(child, dict):
            above = ".".join(names[:depth])
            raise ConfigError(f"{above} is a value, so there is no {path}.")
        node = child
    last = names[-1]
    _check_key(node, last, path)
    node[last] = _read_value(text, node.get(last), path)


def _check_key(node: Mapping[str, object], name: str, path: str) -> None:
    if name not in node and not name.isidentifier():
        raise ConfigError(
            f"{shown(path)} is not a path of names."
            if name == path
            else f"{shown(path)} is not a path of names: {shown(name)} is none."
        )


def _read_value(text: str | bool, present: object, path: str) -> object:
    if isinstance(text, bool):
        return text
    if isinstance(present, str):
        return None if text == "None" else text
    value: object = {"true": True, "false": False}.get(text)
    if value is None:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = text
    value = plain(value)
    if any(odd_values(value)):
        raise ConfigError(f"{path}: {shown(text)} is no value that a config can hold.")
    if isinstance(present, dict) and not (value is None or isinstance(value, dict)):
        raise ConfigError(
            f"{path} is a group of fields, found {shown(value)}; set one of its "
            f"fields ({path}.NAME=VALUE), or give a dict or None."
        )
    return value


def set_fields(
    node: dict[str, object],
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
