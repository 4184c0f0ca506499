"""Metrics of a run: a line of JSON, TensorBoard, and a progress bar or plain lines.

`metrics.jsonl` holds one object every `log_every` steps: `step`, `time` (seconds since
the epoch), the mean of every scalar over the steps since the line before, rates per
second, the share of time spent waiting for data (`data_wait`), memory in bytes and the
goodput since the stage began.
A step that was skipped does not count towards the means, nor one without targets
towards means over them.
"""

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import jax
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm

from unitoken_jax.train.job import TrainConfig
from unitoken_jax.train.step import is_weight, weight_of

log = logging.getLogger(__name__)

# Counts of the whole run, of which the newest value says all.
_NEWEST = ("skipped", "consecutive_skips", "goodput")
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
    """Collects what the steps say and writes it down every `log_every` steps."""

    def __init__(
        self,
        directory: Path,
        name: str,
        start: int,
        config: TrainConfig,
        *,
        writes: bool = True,
    ) -> None:
        """Open the files of a stage that continues after step `start`.

        Of several processes only one `writes`; the others just know `last`.
        """
        self._directory = directory
        self._steps, self._log_every = config.steps, config.log_every
        self._file = self._board = None
        if writes:
            self._file = _open_lines(directory / "metrics.jsonl")
            self._board = SummaryWriter(
                str(directory / "tensorboard"), purge_step=start or None, flush_secs=10
            )
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not (writes and sys.stderr.isatty()),
        )
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
        self._bar.update()
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
        self.last = row
        if self._file is not None and self._board is not None:
            line = {"step": step, "time": time.time(), **row}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in row.items():
                self._board.add_scalar(name, value, step)
            self._show(step, row)
        self._reset()

    def _show(self, step: int, row: Mapping[str, float]) -> None:
        """Update the bar; a line goes to the log, and to where there is no terminal."""
        shown = {name: f"{row[name]:.4g}" for name in _SHOWN if row.get(name)}
        self._bar.set_postfix(shown)
        rate = (step - self._start) / max(time.perf_counter() - self._began, 1e-9)
        left = tqdm.format_interval((self._steps - step) / max(rate, 1e-9))
        words = " ".join(f"{name} {value}" for name, value in shown.items())
        log.info(
            "%s %d/%d %s (%.3g steps/s, %s left)",
            *(self._name, step, self._steps, words, row["steps_per_second"], left),
            extra={"file_only": not self._bar.disable},
        )

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures, uint8 [H, W, 3], as PNG files and to TensorBoard."""
        if self._board is None:
            return
        folder = self._directory / "samples"
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            path = folder / f"{name}-{step:07d}.png"
            partial = path.with_suffix(".partial")
            Image.fromarray(picture).save(partial, format="PNG")
            partial.replace(path)
            self._board.add_image(name, picture, step, dataformats="HWC")

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files; what was collected since the last line is lost."""
        self._bar.close()
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def _open_lines(path: Path) -> IO[str]:
    """Open a file to append lines; a killed run may have left half a one."""
    file = path.open("a+", encoding="utf-8")
    if file.tell():
        with path.open("rb") as content:
            content.seek(-1, os.SEEK_END)
            if content.read() != b"\n":
                file.write("\n")
    return file


def last_metrics(directory: Path, step: int) -> dict[str, float]:
    """Return what `directory` has recorded of a step last; {} if that is nothing."""
    try:
        text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError:
        return {}
    for line in reversed(text.splitlines()):
        try:
            row = json.loads(line)
        except ValueError:  # a killed run may have left half a line
            continue
        if row.get("step") == step:
            return {k: x for k, x in row.items() if k not in ("step", "time")}
    return {}


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
