"""Noticing that a run is asked to end, so that it can save first."""

import signal
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
"""What `signal.signal` gives back."""


class Preemption:
    """A context in which SIGTERM and the first Ctrl-C set `requested`.

    The loop looks at `requested` between steps. A second Ctrl-C interrupts at once.
    What whoever started the process had it ignore (a shell, Ctrl-C of a background
    job) stays ignored.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "Preemption":
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number


def name(number: int) -> str | None:
    """Return the name of a signal, 'SIGTERM'; None for 0."""
    return signal.Signals(number).name if number else None
