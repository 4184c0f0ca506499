"""From points to tasks: shared stages first, then each point with what is left.

A stage that several points have alike is trained once, in a directory of its own,
and linked into the directories of those points. The rest of a point is one ordinary
run: whatever is not complete is trained, then evaluated.
"""

import dataclasses
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.sweep import experiment
from launch.sweep.config import Point
from launch.sweep.experiment import Experiment, Stage
from unitoken_jax.config import ConfigError, differences
from unitoken_jax.renamed import translate

log = logging.getLogger("launch.sweep")

_NAMED = 3  # fields in which a stage differs


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

    @property
    def unshared(self) -> list[Path]:
        """Directories of its own in places of links.

        The sweep has changed: what stands there was trained before others had it alike.
        """
        return [p for p in self.links if p.is_dir() and not p.is_symlink()]

    def share(self) -> None:
        """Move such directories to where they are shared, unless that is taken."""
        for place in self.unshared:
            target = self.links[place]
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.rename(target)  # replaces an empty directory
            except OSError:
                continue
            _link(place, os.path.relpath(target, place.parent))
            log.info("%s is shared now, as %s", place, target)

    def prepare(self) -> None:
        """Make its directory and links; set aside what they take the place of."""
        for place in self.unshared:
            _set_aside(place)
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.codes is not None:
            self.codes.mkdir(parents=True, exist_ok=True)
        for place, target in self.links.items():
            relative = os.path.relpath(target, place.parent)
            if not place.is_symlink() or os.readlink(place) != relative:
                _link(place, relative)


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


@dataclasses.dataclass(frozen=True)
class Reuse:
    """What an earlier run spares a sweep.

    Attributes:
        taken: name of a task that is not done → the run's stage that does it.
        refused: complete stage of the run that none takes → why not.
    """

    taken: Mapping[str, str]
    refused: Mapping[str, str]


def reuse(tasks: Sequence[Task], points: Sequence[Point], run: Path) -> Reuse:
    """Find complete stages of an earlier run that shared ones need not train again.

    Args:
        tasks: of the sweep.
        points: of the sweep.
        run: directory of the earlier run.

    Raises:
        ConfigError: there is no such run, or none of its stages is complete.
    """
    if not any(run.glob("*/finished.json")):
        what = "holds no complete stage" if run.is_dir() else "is no directory"
        raise ConfigError(f"--reuse={run} {what}: name the workdir of a run.")
    stages = {
        _key(stage): stage
        for point in points
        for stage in experiment.read(point.config, point.set).stages
    }
    taken: dict[str, str] = {}
    refused: dict[str, str] = {}
    known: set[str] = set()  # complete, whoever trained them
    for task in tasks:
        if task.point is not None:
            continue
        if task.is_done():
            known.add(task.name)
            continue
        stage = stages[task.name]
        if _finished_steps(run / stage.name) is None:
            continue
        differing = _differing(stage, run / stage.name)
        if (task.workdir / stage.name).exists():
            refused[stage.name] = "it has begun to be trained here"
        elif differing:
            more = f" and {len(differing) - _NAMED} more" * (len(differing) > _NAMED)
            refused[stage.name] = ", ".join(differing[:_NAMED]) + more
        elif missing := [name for name in task.needs if name not in known]:
            refused[stage.name] = f"it starts from {missing[0]}, which is not taken"
        else:
            taken[task.name] = stage.name
            known.add(task.name)
    for name in taken.values():
        refused.pop(name, None)
    return Reuse(taken, refused)


def adopt(tasks: Sequence[Task], taken: Mapping[str, str], run: Path) -> None:
    """Link the stages that `reuse` finds to be taken."""
    for task in tasks:
        if task.name in taken:
            task.workdir.mkdir(parents=True, exist_ok=True)
            stage = taken[task.name]
            # A link to a run that is gone may stand there.
            _link(task.workdir / stage, (run / stage).resolve())


def _link(place: Path, target: Path | str) -> None:
    """Make a link to a directory in place of another link, if there is one."""
    place.unlink(missing_ok=True)
    place.symlink_to(target, target_is_directory=True)


def _set_aside(place: Path) -> None:
    """Move a directory away; nobody but its owner can say that it is not needed."""
    aside = place.parent / "aside"
    aside.mkdir(exist_ok=True)
    names = (aside / f"{place.name}-{number}" for number in itertools.count(1))
    free = next(name for name in names if not name.exists())
    place.rename(free)
    log.info(
        "%s is shared and there already; what stood here is kept as %s", place, free
    )


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


def _differing(stage: Stage, directory: Path) -> list[str]:
    """Say in which fields a complete stage was trained otherwise than this one."""
    try:
        trained, _ = translate(json.loads((directory / "config.json").read_text()))
    except (OSError, ValueError, AttributeError):
        return ["its config.json cannot be read"]
    if (steps := _finished_steps(directory)) != stage.steps:
        return [f"train.steps is {steps} and not {stage.steps}"]
    return differences(trained, json.loads(json.dumps(stage.job)))
