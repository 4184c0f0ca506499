"""How long the rest of a chain takes, by what its stages have shown so far."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.config import PackedConfig
from unitoken_jax import files
from unitoken_jax.runtime.outlet import content
from unitoken_jax.train.config import ExperimentConfig, StageConfig

_LINES = 20  # of metrics that a pace is taken of


@dataclasses.dataclass(frozen=True)
class Left:
    """Time until a chain is trained.

    Attributes:
        seconds: of the stages whose pace can be told.
        stages: how many there are, with the one that is being trained.
        unknown: names of those whose pace cannot be told.
    """

    seconds: float
    stages: int
    unknown: tuple[str, ...] = ()


class Pace:
    """Knows the stages of a chain that are still to be trained."""

    def __init__(
        self, experiment: ExperimentConfig, workdir: Path, todo: Sequence[str]
    ) -> None:
        self._stages = experiment.stages
        self._todo = list(todo)
        self._shown = {name: _read(workdir / name) for name in experiment.order}

    def left(self, name: str, step: int, seconds: float) -> Left:
        """Return what is left of the chain.

        A stage that has not run takes as long as another one of its kind does for a
        batch of its size; how long it takes to compile is not known.

        Args:
            name: of the stage that is being trained.
            step: that it has taken.
            seconds: that it takes for a step.
        """
        self._shown[name] = (step, seconds)
        total, unknown = 0.0, []
        rest = list(itertools.dropwhile(lambda other: other != name, self._todo))
        for each in rest:
            stage = self._stages[each]
            taken, one = self._shown[each]
            if not one:
                one = self._of_its_kind(stage)
            total += max(stage.train.steps - taken, 0) * one
            unknown += [] if one else [each]
        return Left(total, len(rest), tuple(unknown))

    def _of_its_kind(self, stage: StageConfig) -> float:
        """Return the seconds of a step of a stage alike, 0 if there is none."""
        for name, (_, seconds) in reversed(self._shown.items()):
            other = self._stages[name]
            if seconds and _elements(stage) and _kind(other) == _kind(stage):
                return seconds * _elements(stage) / _elements(other)
        return 0.0


def _kind(stage: StageConfig) -> tuple[str, str]:
    return stage.system.kind, stage.data.kind


def _elements(stage: StageConfig) -> float:
    """Return the size of a batch, in tokens where it has rows of them."""
    data = stage.data
    length = data.row_length if isinstance(data, PackedConfig) else 1
    return float(stage.train.batch * length)


def _read(directory: Path) -> tuple[int, float]:
    """Return the last step that a stage has shown and its seconds; 0 for unknown."""
    data = content(directory / "metrics.jsonl")
    lines = files.json_lines(b"\n".join(data.split(b"\n")[-_LINES:]))
    rows = [line.value for line in lines if isinstance(line.value, dict)]
    steps = [row.get("step") for row in rows[-1:]]
    rates = _numbers(row.get("steps_per_second") for row in rows)
    if not rates or not isinstance(steps[0], int):
        return 0, 0.0
    return steps[0], sum(1 / rate for rate in rates) / len(rates)


def _numbers(values: Iterable[object]) -> list[float]:
    return [value for value in values if isinstance(value, float) and value > 0]
