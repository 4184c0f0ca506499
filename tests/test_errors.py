"""With which code a fault ends a command."""

import errno

import pytest

from unitoken_jax.checkpoint.reader import CheckpointError, UnreadableError
from unitoken_jax.errors import (
    FAILED,
    REFUSED,
    ConfigError,
    FailedError,
    UserError,
    exit_code,
)
from unitoken_jax.runtime.processes import LostError


def caused(error: Exception, cause: BaseException) -> Exception:
    """Return an error as `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), REFUSED),
        (ConfigError("x"), REFUSED),
        (CheckpointError("x"), REFUSED),
        (UnreadableError("x"), FAILED),
        (LostError("x"), FAILED),
        (FailedError("x"), FAILED),
        (OSError(errno.ENOENT, "no such file"), FAILED),
        (ValueError("x"), FAILED),
        (caused(UserError("x"), OSError(errno.ENOENT, "no such file")), REFUSED),
        (caused(UserError("x"), OSError(errno.EIO, "input/output error")), FAILED),
        (caused(UserError("x"), OSError("of a library")), REFUSED),
        (caused(ConfigError("x"), ValueError("y")), REFUSED),
        (caused(UserError("x"), caused(ValueError("y"), LostError("z"))), FAILED),
    ],
)
def test_what_may_do_better_again_is_told_from_what_is_refused(error, code) -> None:
    assert exit_code(error) == code


def test_the_codes_are_those_that_are_documented() -> None:
    assert (REFUSED, FAILED) == (78, 1)
