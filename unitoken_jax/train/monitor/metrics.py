"""Metrics of a run: a line of JSON, TensorBoard, and a progress bar or plain lines.

`metrics.jsonl` holds one object every `log_every` steps: `step`, `time` (seconds since
the epoch), the mean of every scalar over the steps since the line before, rates per
second, the share of time spent waiting for data (`data_wait`), memory in bytes and the
goodput since the stage began.
A step that was skipped does not count towards the means, nor one without targets
towards means over them. Where the disk was full for so long that lines were dropped,
the next one says how many (`lost_lines`); `dropped_writes` counts what all outputs of
the process have dropped, if anything.
"""

import functools
import io
import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from unitoken_jax import files
from unitoken_jax.renamed import metric
from unitoken_jax.runtime import outlet
from unitoken_jax.runtime.outlet import AppendedFile, Outlet, content
from unitoken_jax.train.config import TrainConfig
from unitoken_jax.train.monitor.board import Board
from unitoken_jax.train.monitor.pace import Pace
from unitoken_jax.train.update.step import is_weight, weight_of

log = logging.getLogger(__name__)

# Counts of the whole run, of which the newest value says all.
_NEWEST = ("skipped", "consecutive_skips", "goodput")
_BOOKKEEPING = ("step", "time", "lost_lines")
_PICTURES = 16  # that may wait to be written
_SHOWN = ("loss", "psnr", "accuracy", "grad_norm", "skipped")


def count_items(
    batch: Mapping[str, np.ndarray], rows: int | None = None
) -> dict[str, float]:
    """Return how many tokens and images a batch holds, padding left out.

    Given the rows of the global batch, what this process feeds stands for all of it.
    """
    counts: dict[str, float] = {}
    if "segment_ids" in batch:
        counts["tokens"] = float(np.count_nonzero(batch["segment_ids"]))
    for name in ("image", "label"):  # pictures, or codes of pictures with a class
        if name in batch:
            counts["images"] = float(len(batch[name]))
    fed = len(next(iter(batch.values()), ()))
    share = 1.0 if rows is None or not fed else fed / rows
    return {name: count / share for name, count in counts.items()}


class Recorder:
    """Collects what the steps say and writes it down every `log_every` steps.

    Everything is written by threads of their own, see `outlet`: no step waits for it.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        start: int,
        config: TrainConfig,
        pace: Pace | None = None,
        *,
        writes: bool = True,
    ) -> None:
        """Prepare the files of a stage that continues after step `start`.

        Of several processes only one `writes`; the others just know `last`. Given the
        `pace` of the chain, it says when that ends as well.
        """
        self._pace = pace
        self._directory = directory
        self._steps, self._log_every = config.steps, config.log_every
        self._outputs = _Outputs(directory, start) if writes else None
        self._lost_lines = 0
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not (writes and sys.stderr.isatty()),
        )
        self._terminal = Outlet(f"the bar of {name}", again=False, quiet=True)
        self._name = name
        self._began, self._start = time.perf_counter(), start
        self.last: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self._window_began = time.perf_counter()
        self._window_steps = 0
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._items: dict[str, float] = {}
        self._wait = 0.0

    def add(
        self,
        step: int,
        metrics: Mapping[str, float],
        items: Mapping[str, float],
        wait: float,
    ) -> None:
        """Take in the metrics of `step` (counted from 1), which saw `items`.

        `wait` is how long the step waited for its batch, in seconds.
        """
        taken = not metrics.get("consecutive_skips", 0)
        for name, value in metrics.items():
            weight = 1.0
            if (own := weight_of(name, metrics)) != "weight" and not is_weight(name):
                weight = metrics[own]
            if name in _NEWEST:
                self._sums[name], self._weights[name] = value, 1.0
            elif taken and math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + weight * value
                self._weights[name] = self._weights.get(name, 0.0) + weight
        for name, value in items.items():
            self._items[name] = self._items.get(name, 0.0) + value
        self._window_steps += 1
        self._wait += wait
        self._draw(lambda: self._bar.update(step - self._bar.n))
        if step % self._log_every == 0 or step == self._steps:
            self._write(step)

    def _write(self, step: int) -> None:
        seconds = max(time.perf_counter() - self._window_began, 1e-9)
        row: dict[str, float] = {
            name: total / self._weights[name]
            for name, total in self._sums.items()
            if self._weights[name]
        }
        row["steps_per_second"] = self._window_steps / seconds
        for name, total in self._items.items():
            row[f"{name}_per_second"] = total / seconds
        row["data_wait"] = min(self._wait / seconds, 1.0)
        row |= memory()
        if lost := outlet.dropped():
            row["dropped_writes"] = float(lost)
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        self.last = row
        if self._outputs is not None:
            self._put_down(step, row, self._outputs)
            self._show(step, row)
        self._reset()

    def _put_down(
        self, step: int, row: Mapping[str, float], outputs: "_Outputs"
    ) -> None:
        now = time.time()
        line: dict[str, float] = {"step": step, "time": now, **row}
        if self._lost_lines:
            line["lost_lines"] = self._lost_lines
        record = f"{json.dumps(line)}\n".encode()
        taken = outputs.lines.put(functools.partial(outputs.write_line, record))
        self._lost_lines = 0 if taken else self._lost_lines + 1
        write = functools.partial(outputs.board.scalars, step, row, now)
        outputs.events.put(write)

    def _show(self, step: int, row: Mapping[str, float]) -> None:
        """Update the bar; a line goes to the log, and to where there is no terminal."""
        shown = {name: f"{row[name]:.4g}" for name in _SHOWN if row.get(name)}
        passed = max(time.perf_counter() - self._began, 1e-9)
        seconds = passed / max(step - self._start, 1)
        left = f"{tqdm.format_interval((self._steps - step) * seconds)} left"
        if run := self._left_of_run(step, seconds):
            left += f", {run} of the run"
            self._draw(lambda: self._bar.set_postfix({**shown, "run": run}))
        else:
            self._draw(lambda: self._bar.set_postfix(shown))
        words = " ".join(f"{name} {value}" for name, value in shown.items())
        log.info(
            "%s %d/%d %s (%.3g steps/s, %s)",
            *(self._name, step, self._steps, words, row["steps_per_second"], left),
            extra={"file_only": not self._bar.disable},
        )

    def _left_of_run(self, step: int, seconds: float) -> str:
        """Say how long all stages take that are left; nothing of a lone one."""
        if self._pace is None:
            return ""
        left = self._pace.left(self._name, step, seconds)
        if left.stages < 2:
            return ""
        over = "over " if left.unknown else ""
        return f"{over}{tqdm.format_interval(left.seconds)}"

    def _draw(self, change: Callable[[], object]) -> None:
        """Change the bar, which a terminal may hold up."""
        if not self._bar.disable:
            self._terminal.put(change)

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures, uint8 [H, W, 3], as PNG files and to TensorBoard."""
        if self._outputs is None:
            return
        now, outputs = time.time(), self._outputs
        for name, picture in pictures.items():
            path = self._directory / "samples" / f"{name}-{step:07d}.png"
            outputs.pictures.put(functools.partial(_save, picture, path))
            write = functools.partial(outputs.board.image, step, name, picture, now)
            outputs.events.put(write)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files; what was collected since the last line is lost."""
        self._draw(self._bar.close)
        self._terminal.close()
        if self._outputs is not None:
            self._outputs.close()


class _Outputs:
    """The files of a stage that its `Recorder` writes, each behind an outlet."""

    def __init__(self, directory: Path, start: int) -> None:
        self._lines = AppendedFile(directory / "metrics.jsonl")
        self.board = Board(directory / "tensorboard", start)
        self.lines = Outlet(str(self._lines.path), end=self._close_lines)
        self.events = Outlet(str(directory / "tensorboard"), end=self.board.close)
        _set_later_aside(directory / "samples", start)
        self.pictures = Outlet(str(directory / "samples"), waiting=_PICTURES)

    def write_line(self, record: bytes) -> None:
        """Append a line of metrics; on a disk that is full only later, again."""
        self._lines.append(record)
        self._lines.sync(every=10.0)

    def _close_lines(self) -> None:
        self._lines.sync()
        self._lines.close()

    def close(self) -> None:
        """Write what waits, as far as that can be."""
        for each in (self.lines, self.events, self.pictures):
            each.close()


def _set_later_aside(samples: Path, start: int) -> None:
    """Move images of steps after `start`, which the run takes anew, beside the others.

    What another training has drawn would stand among its own.
    """
    abandoned = samples.with_name(f"{samples.name}-abandoned")
    try:
        for path in sorted(samples.glob("*-*.png")):
            step = path.stem.rpartition("-")[2]
            if step.isascii() and step.isdecimal() and int(step) > start:
                abandoned.mkdir(exist_ok=True)
                path.replace(abandoned / path.name)
    except OSError as error:
        log.warning(
            "%s keeps images of steps after %d, which were undone: %s.",
            *(samples, start, error.strerror or error),
        )


def _save(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG")
    files.write_bytes(path, encoded.getvalue())


def last_metrics(directory: Path, step: int) -> dict[str, float]:
    """Return what `directory` has recorded of a step last; {} if that is nothing."""
    lines = files.json_lines(content(directory / "metrics.jsonl"))
    for line in reversed(list(lines)):
        row = line.value  # None where a killed run has left half a line
        if isinstance(row, dict) and row.get("step") == step:
            values = {k: x for k, x in row.items() if k not in _BOOKKEEPING}
            return {metric(k): x for k, x in values.items() if _is_number(x)}
    return {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def memory() -> dict[str, float]:
    """Return the memory in use, bytes: of this process, and of device 0 if it tells."""
    rows = {"memory_bytes": float(_resident_bytes())}
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" in statistics:
        rows["device_memory_bytes"] = float(statistics["bytes_in_use"])
    if "peak_bytes_in_use" in statistics:
        rows["device_memory_peak_bytes"] = float(statistics["peak_bytes_in_use"])
    return rows


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):  # not Linux: the peak is what there is
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
