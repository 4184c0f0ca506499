"""Reading a run directory, whatever is there of it.

A run may be young, interrupted or half-copied, so nothing here raises for content: what
is missing or unreadable becomes a sentence in `faults` and the rest is read.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unitoken_jax.config import UserError
from unitoken_jax.renamed import metric
from unitoken_jax.report.quantities import LARGEST, is_number

EVALUATIONS = "evaluation"

Content = Mapping[str, Any]
"""What a JSON file holds; its shape is checked where it is read."""

_SLOWEST = 1e-9  # steps a second; a rate below it is none
_BOOKKEEPING = frozenset({"step", "time", "weight", "lost_lines"})


class RunError(UserError):
    """There is no run to report on."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric over the steps of a stage; `lost` values were not finite."""

    key: str
    steps: np.ndarray  # [P], ascending
    values: np.ndarray  # [P], finite
    lost: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one training stage left behind in its directory."""

    name: str
    folder: Path
    records: tuple[Content, ...]
    config: Content
    environment: Content
    samples: tuple[Path, ...]
    faults: tuple[str, ...]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Every numeric metric, in the order in which the log names them.

        A resumed run logs the steps after its checkpoint twice; the later line counts,
        and of an earlier start that went further nothing is left.
        """
        ordered = _standing(self.records)
        keys = dict.fromkeys(
            key
            for record in ordered
            for key, value in record.items()
            if key not in _BOOKKEEPING and is_number(value)
        )
        return {key: _curve(key, ordered) for key in keys}

    @property
    def steps(self) -> int:
        """The last step that was logged and not undone since."""
        return max((record["step"] for record in _standing(self.records)), default=0)

    @property
    def begun(self) -> float:
        """When the first line was written, seconds since the epoch; inf if unknown."""
        times = [r["time"] for r in self.records if is_number(r.get("time"))]
        return min(times, default=math.inf)

    @property
    def seconds(self) -> float:
        """Time spent in steps: pauses between runs are left out, compiling is not."""
        steps = np.diff([0, *(record["step"] for record in self.records)])
        window = np.median(steps) if len(steps) else 0
        # A line after a resumption may lie before the one above it.
        steps = np.where(steps > 0, steps, max(window, 0))
        rates = [record.get("steps_per_second") for record in self.records]
        return sum(
            float(count / rate)
            for count, rate in zip(steps, rates, strict=True)
            if is_number(rate) and rate > _SLOWEST
        )


@dataclasses.dataclass(frozen=True)
class Other:
    """An evaluation of the run with another config than its own.

    Attributes:
        name: of it.
        changes: in which fields its config differs.
        content: what it has found.
    """

    name: str
    changes: tuple[str, ...]
    content: Content


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory: its stages in order of execution, and its evaluations.

    Attributes:
        folder: of the run.
        stages: in order of execution.
        evaluation: with the run's own config.
        faults: what is missing or cannot be read.
        others: evaluations with other configs.
    """

    folder: Path
    stages: tuple[Stage, ...]
    evaluation: Content
    faults: tuple[str, ...]
    others: tuple[Other, ...] = ()


def read(folder: Path) -> Run:
    """Read the run in `folder`.

    Raises:
        RunError: if there is no such directory.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a directory: give a run's --workdir.")
    faults: list[str] = []
    marks = ("metrics.jsonl", "config.json")
    stages = [
        _read_stage(child)
        for child in sorted(folder.iterdir())
        if any((child / mark).is_file() for mark in marks)
    ]
    stages.sort(key=lambda stage: stage.begun)
    own = folder / EVALUATIONS / "default.json"
    # That of earlier versions stands beside the folder.
    paths = [own, folder / "evaluation.json"]
    path = next((path for path in paths if path.exists()), None)
    evaluation = _read_json(path, faults) if path else {}
    others = [
        _other(path, faults)
        for path in sorted((folder / EVALUATIONS).glob("*.json"))
        if path != own
    ]
    return Run(folder, tuple(stages), evaluation, tuple(faults), tuple(others))


def _other(path: Path, faults: list[str]) -> Other:
    content = _read_json(path, faults)
    of = content.get("of")
    changes = of.get("changes") if isinstance(of, Mapping) else None
    said = map(str, changes) if isinstance(changes, list) else ()
    return Other(path.stem, tuple(said), content)


def _read_stage(folder: Path) -> Stage:
    faults: list[str] = []
    records = _read_metrics(folder / "metrics.jsonl", faults)
    return Stage(
        name=folder.name,
        folder=folder,
        records=records,
        config=_read_json(folder / "config.json", faults),
        environment=_read_json(folder / "environment.json", faults),
        samples=tuple(sorted((folder / "samples").glob("*.png"))),
        faults=tuple(faults),
    )


def _read_metrics(path: Path, faults: list[str]) -> tuple[Content, ...]:
    """Read the lines that are whole; a run that writes may have half a last one."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        faults.append(f"{path.name} cannot be read ({error.strerror}): no curves.")
        return ()
    records = []
    broken = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = record["step"]
            if not (isinstance(step, int) and is_number(step) and step >= 0):
                raise TypeError(step)
            records.append({metric(key): value for key, value in record.items()})
        except (ValueError, TypeError, KeyError, RecursionError):
            broken.append(place)
    if broken and broken != [len(lines)]:
        faults.append(
            f"{path.name}: {len(broken)} of {len(lines)} lines are not metrics "
            f"(the first is line {broken[0]}); they are left out."
        )
    lost = [record["lost_lines"] for record in records if "lost_lines" in record]
    if total := sum(int(count) for count in lost if is_number(count)):
        faults.append(
            f"{path.name} lacks {total} lines, which the disk did not take in time."
        )
    return tuple(records)


def _standing(records: Sequence[Content]) -> list[Content]:
    """Return the lines that stand, by steps: each undoes those from its own on."""
    standing: list[Content] = []
    for record in records:
        while standing and standing[-1]["step"] >= record["step"]:
            standing.pop()
        standing.append(record)
    return standing


def _read_json(path: Path, faults: list[str]) -> Content:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        faults.append(f"There is no {path.name}.")
        return {}
    except (ValueError, RecursionError) as error:
        faults.append(f"{path.name} is not JSON ({error}).")
        return {}
    if not isinstance(content, dict):
        faults.append(f"{path.name} does not hold a mapping.")
        return {}
    return content


def _curve(key: str, records: list[Content]) -> Curve:
    points = [(r["step"], r[key]) for r in records if is_number(r.get(key))]
    steps, values = np.asarray(points, np.float64).T
    finite = np.isfinite(values) & (np.abs(values) < LARGEST)
    return Curve(key, steps[finite], values[finite], int((~finite).sum()))
