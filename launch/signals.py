"""Signals that ask a run to end, and the code that says that it did.

Training that is asked to end saves and exits with 0, as one that is complete; for what
restarts it these are different things.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

PREEMPTED = 75
"""`EX_TEMPFAIL`: run the same command again."""

_ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What becomes the command: no code of ours may run between fork and exec, as threads
# of whoever forks (JAX's) may hold locks. Python ignores two signals; the command need
# not. 1 is PR_SET_DEATHSIG.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
if os.getppid() != int(sys.argv[1]):  # it was killed before that
    os.kill(os.getpid(), signal.SIGTERM)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"error: {sys.argv[2]}: {error.strerror}.", file=sys.stderr)
    sys.exit(127)
"""


@contextmanager
def passed_on(send: Callable[[int], None]) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on while the context lasts.

    SIGHUP is passed on as SIGTERM: what runs has sessions of its own, and would outlive
    a terminal that is closed. What was ignored when we were started (SIGHUP by nohup,
    SIGINT by a shell that runs us in the background) stays ignored.

    Args:
        send: is called with the number of each.

    Yields:
        The numbers so far.
    """
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        passed = signal.SIGTERM if number == signal.SIGHUP else number
        asked.append(passed)
        send(passed)

    noted = [number for number in _ASKS if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, note) for number in noted}
    try:
        yield asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def start(
    command: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: int | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command that leaves no orphan, in a session of its own.

    A Ctrl-C of the terminal reaches it through us alone. If this process is killed it
    gets SIGTERM, where the system can (Linux). Call it while there is one thread.

    Args:
        command: to start.
        stdin: as for Popen, like all that follow.
        stdout: likewise.
        stderr: likewise.
        env: likewise.

    Raises:
        OSError: it cannot be started.
    """
    if shutil.which(command[0], path=(env or os.environ).get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    if sys.platform == "linux":
        tie = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        command = [*tie, *command]
    return subprocess.Popen(
        command,
        start_new_session=True,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
    )


def supervise(command: Sequence[str], tell: Callable[[int, int], None]) -> int:
    """Run a command to its end, passing signals on; return `exit_code`.

    Args:
        command: to run, by `start`.
        tell: `os.kill`, or `os.killpg` for all that the command runs.

    Raises:
        OSError: it cannot be started.
    """
    children: list[subprocess.Popen[bytes]] = []

    def send(number: int) -> None:
        for child in children:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    tell(child.pid, number)

    with passed_on(send) as asked:
        children.append(start(command))
        if asked:  # before there was a child to tell
            send(asked[-1])
        return exit_code(children[0].wait(), asked)


def exit_code(code: int, asked: list[int]) -> int:
    """Return PREEMPTED for a run that was asked to end and did.

    While it starts, compiles or evaluates it saves nothing and the signal ends it.

    Args:
        code: of the process, negative if a signal ended it (then 128 + its number).
        asked: the signals that were passed on.
    """
    if asked and (code == 0 or -code in asked):
        return PREEMPTED
    return code if code >= 0 else 128 - code
