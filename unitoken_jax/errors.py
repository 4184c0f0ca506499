"""Faults that end a command in a sentence, and the words and codes they end it with.

Standard library only, so that anyone may import it.
"""

import difflib
import errno
from collections.abc import Iterable, Iterator

REFUSED = 78
"""Exit code (`EX_CONFIG`) of a command that would be refused again, just the same."""
FAILED = 1
"""Exit code of a command that another try may bring to an end, and of any traceback."""

_SHOWN = 100  # letters of a value that a message repeats
# What a file system says of a path that is wrong, rather than of itself.
_OF_PATHS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
    *(errno.EROFS, errno.ENXIO),
}


class UserError(Exception):
    """A fault the user can mend; its message is one sentence or a few.

    Command lines end with the message and `exit_code`, without a traceback.
    """


class ConfigError(UserError, ValueError):
    """A config names something unknown, lacks something or holds a wrong value."""


class FailedError(UserError):
    """Work that was begun and failed, wholly or in part, where a new try may do better.

    A file system or another process let it down, or a part of many was no good.
    """


def exit_code(error: BaseException) -> int:
    """Return the code with which a fault in a sentence ends a command.

    A `UserError` is a refusal, `REFUSED`, unless it is a `FailedError`, or what caused
    it is one or a fault of the file system itself: these are `FAILED`, and so is a bare
    `OSError`.
    """
    if not isinstance(error, UserError):
        return FAILED
    return FAILED if any(map(_may_pass, _causes(error))) else REFUSED


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno not in _OF_PATHS and error.errno is not None
    return isinstance(error, FailedError)


def shown(value: object) -> str:
    """Return the representation of a value for a message, cut if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 10]}… ({len(text)} long)"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint like "; did you mean 'steps'? Known: batch, steps." or "."."""
    names = sorted(known)
    if not names:
        return "."
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names)}."


def sentence(error: OSError) -> str:
    """Say which file cannot be read or written, and why."""
    return f"{error.filename or 'writing a file'}: {error.strerror or error}."
