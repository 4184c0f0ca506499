"""One run at a time in a directory: two would write over each other's files."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unitoken_jax.errors import FailedError
from unitoken_jax.runtime import processes

_FILE = ".lock"
# A predecessor may still be saving, and file servers keep the lock of a machine that is
# lost for a minute or two.
_PATIENCE = 120.0
_POLL = 0.5

log = logging.getLogger(__name__)


@contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Be the only run in a directory while the context lasts; all processes must ask.

    The first process holds a lock, which the system takes back however that process
    ends. Where the file system has no locks, nothing is checked.

    Args:
        workdir: of the run; it exists.

    Raises:
        FailedError: another run is there, and stays.
    """
    with contextlib.ExitStack() as stack:
        free, other = True, "another run"
        if processes.is_first():
            file = os.open(workdir / _FILE, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, file)
            if free := _take(file, workdir):
                _name_holder(file)
            else:
                other = f"another run ({_holder(file)})"
        if not processes.all_say(free):
            raise FailedError(
                f"{workdir}: {other} is in this directory. Wait for it or end it, or "
                f"set another --workdir; if it is gone, remove {workdir / _FILE}."
            )
        yield


def _take(file: int, workdir: Path) -> bool:
    """Lock a file within some time; say whether nobody else has it."""
    limit, said = time.monotonic() + _PATIENCE, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > limit:
                return False
        except OSError:  # there are no locks here
            return True
        else:
            return True
        if not said:
            log.info(
                "%s: waiting up to %.0f s for another run in this directory (%s)",
                *(workdir, _PATIENCE, _holder(file)),
            )
            said = True
        time.sleep(_POLL)


def _name_holder(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _holder(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace")
