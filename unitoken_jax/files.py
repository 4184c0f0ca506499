"""Files on the ground floor: paths that users give, whole files, lines of JSON.

Every path of a flag, a config field, a request or a sweep goes through `user_path`,
every small file appears through `write_bytes`, and every JSON-lines file is read with
`json_lines`. Anyone may import it.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from absl import flags

from unitoken_jax.errors import ConfigError, UserError

# `gs:/bucket` is what pathlib makes of a bucket's address; a drive is no scheme.
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")
_LONGEST = 200  # bytes of a name that are kept in a temporary one; 255 are allowed
flags.disclaim_key_flags()  # flags belong to the command line that defines them
_BOM = b"\xef\xbb\xbf"


def user_path(given: str | os.PathLike[str], name: str) -> Path:
    """Return the path that a user gave, with `~` and `~user` expanded.

    Spaces and letters of any script within a path are kept as they are.

    Args:
        given: as it was written.
        name: of the flag, field or request it came from, for messages: `--workdir`.

    Raises:
        ConfigError: it is empty, begins or ends with white space, holds a NUL, is the
            address of a bucket or another URL, or its `~` has no home directory.
    """
    text = os.fspath(given)
    if not text.strip():
        raise ConfigError(f"{name} is an empty path; name a file or folder.")
    if text != text.strip():
        raise ConfigError(
            f"{name}={text!r} begins or ends with white space, which is likely not "
            "meant; remove it."
        )
    if "\0" in text:
        raise ConfigError(f"{name}={text!r} holds a NUL, which no path may.")
    refuse_address(text, name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Undecodable bytes of a file's name on this machine come as surrogates.
        if not _is_file_name(text):
            raise ConfigError(
                f"{name}={text!r} holds half a character ({error.reason})."
            ) from error
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{name}={text}: there is no such home directory ({error}); write the path "
            "in full."
        ) from error


def refuse_address(text: str, name: str) -> None:
    """Refuse the address of a bucket or another URL where a path is needed.

    Args:
        text: as it was written, for this or another machine.
        name: of the flag or field, for messages.

    Raises:
        ConfigError: it is one.
    """
    scheme = _SCHEME.match(text)
    if scheme is not None:
        raise ConfigError(
            f"{name}={text}: {scheme['scheme']}:// is no path of a file system, and "
            "nothing is read from or written to such addresses. Mount the bucket "
            "(gcsfuse, s3fs, or --mount of the launchers) and give the mounted path."
        )


def _is_file_name(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _path_text(given: str, name: str) -> str:
    return str(user_path(given, name))


def _path_text_or_none(given: str, name: str) -> str:
    return str(user_path(given, name)) if given else ""


UserPath = Annotated[str, _path_text]
"""A field of a config that holds a path, see `config.build`."""
OptionalPath = Annotated[str, _path_text_or_none]
"""Likewise, where '' is none."""


class _PathParser(flags.ArgumentParser):
    """Parses a flag whose value is a path, with `user_path`."""

    syntactic_help = "a path"

    def __init__(self, name: str, *, optional: bool) -> None:
        self._name = f"--{name}"
        self._optional = optional

    def parse(self, argument: str | os.PathLike[str]) -> Path | None:
        """Return the path, or raise the sentence that `config.run` prints."""
        if self._optional and os.fspath(argument) == "":
            return None
        return user_path(argument, self._name)

    def flag_type(self) -> str:
        """Name the type in --help."""
        return "path"


def define_path_flag(
    name: str,
    default: str | None,
    meaning: str,
    *,
    required: bool = False,
    optional: bool = False,
) -> flags.FlagHolder:
    """Define a flag whose value is a `Path` of a user, or None where none is given.

    Args:
        name: without dashes.
        default: as a user would write it; None: no path.
        meaning: one sentence for --help.
        required: refuse a command line without it.
        optional: whether '' may be given, for None.
    """
    return flags.DEFINE(
        _PathParser(name, optional=optional),
        name,
        default,
        meaning,
        serializer=flags.ArgumentSerializer(),
        required=required,
    )


def path_argument(name: str) -> Callable[[str], Path]:
    """Return the `type` of an argument of argparse that is a path of a user.

    Args:
        name: of the argument, for messages: `--output`.
    """

    def parse(text: str) -> Path:
        try:
            return user_path(text, name)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error

    return parse


def read_user_file(path: Path, most: int) -> bytes:
    """Read a file that a user names, never waiting for anybody who would write it.

    Args:
        path: of the file.
        most: bytes; a larger file is refused before it is read.

    Raises:
        UserError: it is missing, no file, too large, or may not be read.
    """
    try:
        # A named pipe would block even here; a device may have no end.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(opened).st_mode
            if stat.S_ISFIFO(mode) and path.parts[1:2] == ("dev",):
                # What a shell pipes into a command comes by a descriptor of its own.
                os.set_blocking(opened, True)
            elif not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise UserError(f"{path} cannot be read: it is {kind}.")
            with os.fdopen(opened, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(opened)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}.") from error
    if len(data) > most:
        raise UserError(f"{path} cannot be read: it has more than {most:,} bytes.")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers, and the next start, see the old or the new one.

    Raises:
        OSError: it cannot be written; the old one is untouched.
    """
    with replaced(path) as partial, partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write indented JSON with sorted keys as `write_bytes` does."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place if the block ends well.

    If the block raises, nothing is left behind and `path` stays as it was.
    """
    partial = path.with_name(f".{_cut(path.name)}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _cut(name: str) -> str:
    """Shorten a file's name so that a longer one made of it is still allowed."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    kept = data[:_LONGEST].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(data).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True)
class JsonLine:
    """One line of a JSON-lines file.

    Attributes:
        number: of the line, from 1; empty lines count and are left out.
        value: what it says; None if there is a fault.
        fault: what is wrong with it, a clause without a full stop; None if nothing.
    """

    number: int
    value: Any
    fault: str | None = None


def json_lines(data: bytes) -> Iterator[JsonLine]:
    """Yield the lines of JSON-lines data, good and bad; none ends the others.

    Lines end with LF or CRLF and nowhere else (U+2028, U+0085 and the like may stand in
    texts); a byte order mark at the beginning is skipped. Half a surrogate pair, which
    could never be written again, is a fault.
    """
    for number, line in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        if line.strip():
            try:
                yield JsonLine(number, read_json(line))
            except ValueError as error:
                yield JsonLine(number, None, str(error))


def read_json(data: bytes) -> Any:
    """Read one JSON value of UTF-8 bytes, as RFC 8259 has it.

    Raises:
        ValueError: a clause without a full stop: not UTF-8, not JSON, a key twice, NaN
            or Infinity, nested too deeply, a number of too many digits or half a
            surrogate pair.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error})") from error
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_unique
        )
        # Only an escape can make half a pair; only then is the value walked through.
        is_cut = "\\u" in text and _has_surrogate(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        raise ValueError("a number has too many digits") from error
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
    if is_cut:
        raise ValueError("half a surrogate pair (half an emoji, cut in the middle)")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's members, of which none may be given twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _has_surrogate(value: object) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, Mapping):
        return any(_has_surrogate(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_surrogate, value))
