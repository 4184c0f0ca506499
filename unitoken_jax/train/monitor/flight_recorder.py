"""The flight recorder: what went into every step and what came out, by process.

`STAGE/flight/process-00000.jsonl` begins with a line on the process (which rows of a
batch it feeds) and has two lines a step: when it is dispatched its records, the digest
of its input and the random key; when it has ended its metrics (terms of the loss, norms
of the gradient by group). A step that a crash or a hang cuts short has only the first.
A thread of its own computes and writes (see `outlet`); a full file is put aside as
`.older.jsonl`, in place of the one before, so the two are bounded.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unitoken_jax import files
from unitoken_jax.runtime.outlet import AppendedFile, Outlet, content

_WAITING = 16  # lines that may wait for the thread; a disk slower than that loses some


@dataclasses.dataclass(frozen=True)
class FlightConfig:
    """Keep at least the last `steps` steps; 0 records nothing."""

    steps: int = 10_000

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or more, not {self.steps}.")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one process recorded of one step.

    Attributes:
        rows: the rows of the global batch that it fed.
        records: indices of their records into the split, as `record` of the batch
            without −1; None if the data has none.
        digest: of these rows, see `digest`.
        rng: data of the run's random key.
        metrics: what the step gave; empty if it never ended.
    """

    rows: Sequence[int]
    records: Sequence[int] | None
    digest: str
    rng: Sequence[int]
    metrics: Mapping[str, float]


def digest(batch: Mapping[str, np.ndarray]) -> str:
    """Return 16 hexadecimal digits for names, types, shapes and bytes of arrays."""
    content = hashlib.sha256()  # the fastest of hashlib on today's processors
    for name, array in sorted(batch.items()):
        content.update(f"{name} {array.dtype} {array.shape} ".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


class FlightRecorder:
    """Writes the file of one process; a context."""

    def __init__(
        self,
        directory: Path,
        config: FlightConfig,
        *,
        process: int,
        rows: Sequence[int],
        rng: Sequence[int],
    ) -> None:
        """Open the file of `process`, which feeds `rows`; a resumed run appends."""
        self._path = directory / f"process-{process:05d}.jsonl"
        self._config = config
        self._rng = [int(word) for word in rng]
        header = {"process": process, "rows": [int(row) for row in rows]}
        # Not before there is a line: starts without a step would add up.
        self._file = AppendedFile(self._path, head=lambda: _line(header))
        self._lines = Outlet(
            str(self._path), waiting=_WAITING, again=False, end=self._file.close
        )
        self._written: int | None = None  # lines of steps in the file

    def before(
        self, step: int, batch: Mapping[str, np.ndarray], record: np.ndarray | None
    ) -> None:
        """Record what `step` is given, as it is dispatched."""
        records = None
        if record is not None:
            records = [int(index) for index in np.ravel(record) if index >= 0]
        began = round(time.time(), 3)

        def line() -> dict[str, object]:
            return {
                "step": step,
                "time": began,
                "records": records,
                "digest": digest(batch),
                "rng": self._rng,
            }

        self._put(line)

    def after(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record what `step` gave."""
        # JSON has no numbers that are not finite.
        values = {k: x if math.isfinite(x) else str(x) for k, x in metrics.items()}
        self._put(lambda: {"step": step, "metrics": values})

    def _put(self, line: Callable[[], dict]) -> None:
        if self._config.steps:
            self._lines.put(lambda: self._write(_line(line())))

    def __enter__(self) -> "FlightRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def _write(self, line: bytes) -> None:
        if self._written is None:
            # What earlier starts wrote counts: however many, the two stay bounded.
            self._written = _count_steps(self._path)
        if self._written >= 2 * self._config.steps:
            self._file.close()
            self._path.replace(_older(self._path))
            self._written = 0
        self._file.append(line)
        self._written += 1


def _line(fields: Mapping[str, object]) -> bytes:
    return f"{json.dumps(fields)}\n".encode()


def _count_steps(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as lines:
        return sum(b'"step"' in line for line in lines)


def _older(path: Path) -> Path:
    return path.with_suffix(".older.jsonl")


def read(directory: Path, steps: range) -> dict[int, dict[int, Entry]]:
    """Return what was recorded of steps, by step and process.

    Of a step that was taken several times it is the last; lines that are not whole are
    left out.
    """
    found: dict[int, dict[int, Entry]] = {}
    for path in sorted(directory.glob("process-*[0-9].jsonl")):
        process = int(path.stem.removeprefix("process-"))
        for file in (_older(path), path):
            for step, entry in _read(file, steps).items():
                found.setdefault(step, {})[process] = entry
    return found


def _read(path: Path, steps: range) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    rows: list[int] = []
    for line in files.json_lines(content(path)):
        fields = line.value  # None where a crash has left half a line
        if not isinstance(fields, dict):
            continue
        # A line that something else has changed is left out as well.
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            if "rows" in fields:
                rows = fields["rows"]
                continue
            step = fields["step"]
            if step in steps and "digest" in fields:
                found[step] = Entry(
                    rows, fields["records"], fields["digest"], fields["rng"], {}
                )
            elif step in found:
                values = {k: float(x) for k, x in fields["metrics"].items()}
                found[step] = dataclasses.replace(found[step], metrics=values)
    return found
