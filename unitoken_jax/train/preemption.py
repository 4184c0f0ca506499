"""Noticing that a run is asked to end, so that it can save first."""

import signal
from types import FrameType
from typing import Any


class Preemption:
    """A context in which SIGTERM and the first Ctrl-C set `requested`.

    The loop looks at `requested` between steps. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
