"""Log lines on the console."""

import errno
import io
import logging
import sys

from unitoken_jax.train.console import log_to_console


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_console_that_is_gone_ends_nothing(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    with log_to_console():
        logging.getLogger("unitoken_jax.test").info("saved")
