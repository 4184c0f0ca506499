"""Goodput: the share of the time since a stage began that its state is made of.

Productive is the time of steps that count: not compiling and restoring, not waiting for
data, not copying checkpoints or drawing, not the steps that a crash lost and that were
done again, and not the time in which nothing ran. The productive seconds travel in the
checkpoints, so whatever came after the newest one is lost with its steps.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitoken_jax import files
from unitoken_jax.runtime.outlet import content

_FIRST = 2**20  # bytes of metrics, more than its first line has


class Goodput:
    """Productive seconds of a stage, over all its starts.

    Attributes:
        began: when the stage began first, seconds since the epoch.
        productive: seconds of steps that count.
    """

    def __init__(self, meta: Mapping[str, Any], metrics: Path, now: float) -> None:
        """Go on from what is known.

        Args:
            meta: of the checkpoint that is resumed; empty at the beginning.
            metrics: lines of an earlier start, if there was one, say when the stage
                began where no checkpoint does.
            now: when this start began, seconds since the epoch.
        """
        before = meta.get("goodput", {})
        self.productive = float(before.get("productive", 0.0))
        self.began = float(before.get("began", _first_time(metrics, now)))

    def add(self, seconds: float) -> None:
        """Count a step that took so long, its waits taken off."""
        self.productive += max(seconds, 0.0)

    def record(self) -> dict[str, object]:
        """Return what a checkpoint keeps, to be merged into its description."""
        return {"goodput": {"began": self.began, "productive": self.productive}}

    def share(self) -> float:
        """Return the goodput so far, from 0 to 1."""
        wall = time.time() - self.began
        return self.productive / max(wall, self.productive, 1e-9)


def _first_time(metrics: Path, now: float) -> float:
    lines = files.json_lines(content(metrics, _FIRST))
    first = next(lines, None)
    row = first.value if first is not None else None
    when = row.get("time") if isinstance(row, dict) else None
    return min(now, when) if isinstance(when, float) else now
