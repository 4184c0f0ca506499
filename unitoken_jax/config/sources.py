"""Config files: found, run and made plain."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path

from ml_collections import ConfigDict

from unitoken_jax.config.schema import plain
from unitoken_jax.errors import ConfigError, nearest, shown
from unitoken_jax.files import user_path

# Beside our packages, in a checkout as well as where they are installed.
_OURS = Path(__file__).parents[2] / "configs"


def split_file(given: str) -> tuple[Path, str | None]:
    """Part 'FILE.py:WORD' into the file and the word for its `get_config`.

    A path may hold colons itself: the first part of it that is a file is the file. If
    none is, the name of a config of ours is looked for, from any directory:
    'quickstart', 'configs/quickstart.py', 'sweeps/data_ratio'.

    Raises:
        ConfigError: there is no such file, or it cannot be a path.
    """
    user_path(given, "config")  # refuses addresses before their colon parts them
    ends = [len(given), *(i for i, letter in enumerate(given) if letter == ":")]
    for end in ends:
        file = user_path(given[:end] or ".", "config")
        if _is_file(file):
            return file, given[end + 1 :] if end < len(given) else None
    for end in ends:
        file = _ours(given[:end])
        if file is not None:
            return file, given[end + 1 :] if end < len(given) else None
    name = given if len(ends) == 1 else given[: ends[-1]]
    file = user_path(name or given, "config")
    if file.parent == Path() and file.suffix != ".py":
        known = [_name(path) for path in _OURS.rglob("*.py")]
        raise ConfigError(
            f"there is neither such a file nor a config of this name"
            f"{nearest(str(file), filter(None, known))}"
        )
    try:
        beside = [str(p) for p in file.parent.glob("*.py") if p.name != "__init__.py"]
    except OSError:
        beside = []
    raise ConfigError(f"there is no such file{nearest(str(file), beside)}")


def _ours(name: str) -> Path | None:
    """Return the file of a config of ours, by its name or path in a checkout."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    if path.parts[0] == "configs":
        path = path.relative_to("configs")
    if not path.name:
        return None
    file = _OURS / path.with_name(f"{path.name.removesuffix('.py')}.py")
    return file if _name(file) and _is_file(file) else None


def _name(file: Path) -> str:
    """Return the name by which a file of ours is found; '' if it is no config."""
    inner = file.relative_to(_OURS).with_suffix("")
    return "" if inner.name in ("__init__", "common") else inner.as_posix()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, for one
        return False


def load_file(given: str) -> dict[str, object]:
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
    for path, value in odd_values(node):
        raise ConfigError(
            f"{file}: {path} is {shown(value)}, no value that a config can hold: write "
            "numbers, texts, None, tuples and dicts of them."
        )
    return node


def odd_values(node: object, path: str = "config") -> Iterable[tuple[str, object]]:
    """Yield what is not plain, with its path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from odd_values(value, f"{path}.{key}")
    elif isinstance(node, tuple):
        for place, value in enumerate(node):
            yield from odd_values(value, f"{path}[{place}]")
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
