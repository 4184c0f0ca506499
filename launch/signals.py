"""Signals that ask a run to end, and the code that says that it did.

Training that is asked to end saves and exits with 0, as one that is complete; for what
restarts it these are different things.
"""

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

PREEMPTED = 75
"""`EX_TEMPFAIL`: run the same command again."""


@contextmanager
def passed_on(send: Callable[[int], None]) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on while the context lasts.

    SIGHUP is passed on as SIGTERM: what runs has sessions of its own, and would outlive
    a terminal that is closed. Under nohup it stays ignored.

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

    noted = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        noted.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, note) for number in noted}
    try:
        yield asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def supervise(command: Sequence[str], tell: Callable[[int, int], None]) -> int:
    """Run a command to its end, passing signals on; return `exit_code`.

    Args:
        command: to run, in a session of its own: a Ctrl-C reaches it once, through us.
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
        children.append(subprocess.Popen(command, start_new_session=True))
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
