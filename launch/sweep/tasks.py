"""From points to tasks: shared stages first, then each point with what is left.

A stage that several points have alike is trained once, in a directory of its own,
and linked into the directories of those points. The rest of a point is one ordinary
run: whatever is not complete is trained, then evaluated.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.sweep import experiment
from launch.sweep.config import Point
from launch.sweep.experiment import Experiment, Stage
from unitoken_jax.config import contains


@dataclasses.dataclass(frozen=True)
class Task:
    """One process to run.

    Attributes:
        name: of the task and of its log.
        workdir: of its run.
        arguments: of `python -m unitoken_jax.train`.
        stages: that are complete when it is done, with their steps.
        needs: names of tasks that must be done before.
        links: where → what, relative symbolic links to make before.
        codes: directory of image codes that it makes or needs, or None.
        point: the point that it completes, None if it trains a shared stage.
        page: whether it ends with a report page.
    """

    name: str
    workdir: Path
    arguments: tuple[str, ...]
    stages: Mapping[str, int]
    needs: tuple[str, ...]
    links: Mapping[Path, Path]
    codes: Path | None
    point: Point | None = None
    page: bool = False

    def is_done(self) -> bool:
        """Say whether its stages are complete, and its page is written."""
        for stage, steps in self.stages.items():
            if _finished_steps(self.workdir / stage) != steps:
                return False
        return not self.page or (self.workdir / "report.html").is_file()

    def prepare(self) -> None:
        """Make its directory and links."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.codes is not None:
            self.codes.mkdir(parents=True, exist_ok=True)
        for place, target in self.links.items():
            relative = os.path.relpath(target, place.parent)
            if place.is_symlink() and os.readlink(place) == relative:
                continue
            place.unlink(missing_ok=True)
            place.symlink_to(relative, target_is_directory=True)


def plan(
    points: Sequence[Point], folder: Path, chosen: Sequence[Point] | None = None
) -> list[Task]:
    """Return the tasks of a sweep; each comes after those that it needs.

    Args:
        points: all runs of the sweep, which decide what is shared.
        folder: of the sweep.
        chosen: those to be run; None is all.

    Raises:
        ConfigError: a point's config cannot be read.
    """
    experiments = [experiment.read(point.config, point.set) for point in points]
    users = Counter(stage.digest for found in experiments for stage in found.stages)
    tasks: dict[str, Task] = {}
    for point, found in zip(points, experiments, strict=True):
        if chosen is not None and point not in chosen:
            continue
        shared = [stage for stage in found.stages if users[stage.digest] > 1]
        # A stage that starts from one that is not shared is not shared either.
        for stage in shared:
            if _key(stage) not in tasks:
                tasks[_key(stage)] = _shared_task(point, found, stage, folder)
        tasks[point.name] = _point_task(point, found, shared, folder)
    return list(tasks.values())


def equal_stages(
    tasks: Sequence[Task], points: Sequence[Point], run: Path
) -> dict[str, str]:
    """Find complete stages of an earlier run that shared ones need not train again.

    Args:
        tasks: of the sweep.
        points: of the sweep.
        run: directory of the earlier run.

    Returns:
        Name of a task that is not done → name of the run's stage that does it.
    """
    stages = {
        _key(stage): stage
        for point in points
        for stage in experiment.read(point.config, point.set).stages
    }
    found: dict[str, str] = {}
    known: set[str] = set()  # complete, whoever trained them
    for task in tasks:
        if task.point is not None:
            continue
        if task.is_done():
            known.add(task.name)
            continue
        stage = stages[task.name]
        begun = (task.workdir / stage.name).exists()
        is_equal = not begun and _is_equal(stage, run / stage.name)
        if is_equal and known.issuperset(task.needs):
            found[task.name] = stage.name
            known.add(task.name)
    return found


def adopt(tasks: Sequence[Task], points: Sequence[Point], run: Path) -> list[str]:
    """Link the stages that `equal_stages` finds; return the tasks that this does."""
    found = equal_stages(tasks, points, run)
    for task in tasks:
        if task.name in found:
            task.workdir.mkdir(parents=True, exist_ok=True)
            source = (run / found[task.name]).resolve()
            place = task.workdir / found[task.name]
            place.symlink_to(source, target_is_directory=True)
    return list(found)


def _key(stage: Stage) -> str:
    return f"{stage.name}-{stage.digest}"


def _home(stage: Stage, folder: Path) -> Path:
    """Return the working directory in which a shared stage is trained."""
    return folder / "shared" / _key(stage)


def _arguments(point: Point, workdir: Path) -> tuple[str, ...]:
    fields = [f"--config.{field}" for field in point.set]
    return f"--config={point.config}", *fields, f"--workdir={workdir}"


def _codes(found: Experiment, stages: Sequence[Stage], folder: Path) -> Path | None:
    """Return where the codes of shared tokenizers are kept, if any are needed."""
    names = {name for stage in stages for name in stage.tokenizers}
    digests = [stage.digest for stage in found.stages if stage.name in names]
    return folder / "codes" / "-".join(digests) if digests else None


def _links(sources: Sequence[Stage], workdir: Path, folder: Path) -> dict[Path, Path]:
    """Return the links by which a run finds shared stages in its own directory."""
    return {
        workdir / source.name: _home(source, folder) / source.name for source in sources
    }


def _shared_task(point: Point, found: Experiment, stage: Stage, folder: Path) -> Task:
    workdir = _home(stage, folder)
    sources = [source for source in found.stages if source.name in stage.sources]
    codes = _codes(found, [stage], folder)
    links = _links(sources, workdir, folder)
    if codes is not None:
        links[workdir / "codes"] = codes
    return Task(
        name=_key(stage),
        workdir=workdir,
        arguments=(*_arguments(point, workdir), f"--stage={stage.name}"),
        stages={stage.name: stage.steps},
        needs=tuple(_key(source) for source in sources),
        links=links,
        codes=codes,
    )


def _point_task(
    point: Point, found: Experiment, shared: Sequence[Stage], folder: Path
) -> Task:
    workdir = folder / "points" / f"{point.name}-{found.digest}"
    links = _links(shared, workdir, folder)
    tokenizers = {name for stage in found.stages for name in stage.tokenizers}
    codes = None
    if tokenizers and tokenizers <= {stage.name for stage in shared}:
        codes = _codes(found, found.stages, folder)
        assert codes is not None
        links[workdir / "codes"] = codes
    return Task(
        name=point.name,
        workdir=workdir,
        arguments=_arguments(point, workdir),
        stages={stage.name: stage.steps for stage in found.stages},
        needs=tuple(map(_key, shared)),
        links=links,
        codes=codes,
        point=point,
        page=found.finish,
    )


def _finished_steps(directory: Path) -> int | None:
    try:
        return json.loads((directory / "finished.json").read_text())["steps"]
    except (OSError, ValueError, KeyError):
        return None


def _is_equal(stage: Stage, directory: Path) -> bool:
    """Say whether a directory holds this stage, complete, trained with these fields."""
    if _finished_steps(directory) != stage.steps:
        return False
    try:
        trained = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return contains(trained, json.loads(json.dumps(stage.job)))
