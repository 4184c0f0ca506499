"""The stages of a chain in their order, each resumable and runnable alone."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.config import UserError, contains, nearest, plain
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.renamed import translate
from unitoken_jax.runtime import processes
from unitoken_jax.train import preflight
from unitoken_jax.train import stage as stages
from unitoken_jax.train.components import StageBuilder, StageComponents
from unitoken_jax.train.config import ExperimentConfig, StageConfig
from unitoken_jax.train.loop import Outcome
from unitoken_jax.train.monitor.pace import Pace
from unitoken_jax.train.replay import Finding, replay

log = logging.getLogger(__name__)

_Sources = dict[str, tuple[Path, str]]  # our subtree → directory and subtree there
_Assembled = tuple[StageComponents, _Sources]


def run(
    experiment: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    *,
    only: str | None = None,
    restore_step: int | None = None,
    begin: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> bool:
    """Train what is left to train; return whether every stage is complete.

    A run that is asked to end as its last stage becomes complete is not called so: what
    follows is left to the next start.

    Args:
        experiment: the stages.
        workdir: where each has a directory of its name.
        builder: makes what the stages are made of.
        only: name of the one stage to train; what it starts from must be complete.
        restore_step: the checkpoint of the stage to go back to.
        begin: its context is entered before anything is written, once there is nothing
            left that a look at config, data and checkpoints would refuse.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    todo = _checked(experiment, workdir, builder, only=only, restore_step=restore_step)
    with ExitStack() as early:
        ready = _first(experiment, workdir, builder, todo, early)
        with begin():
            # Another run may have been here till now.
            todo = _to_do(experiment, workdir, only, goes_back=restore_step is not None)
            pace = Pace(experiment, workdir, todo)
            if restore_step is not None:
                _warn_of_later(experiment, workdir, todo[0])
            for name in experiment.order:
                stage = experiment.stages[name]
                if name not in todo:
                    if only in (None, name):
                        _report_complete(experiment, stage, workdir)
                    continue
                _check_sources(experiment, stage, workdir)
                with ExitStack() as now:
                    if name in ready:
                        now.push(early.pop_all())
                        parts, sources = ready[name]
                    else:
                        assembled = _assembled(experiment, stage, workdir, builder)
                        parts, sources = now.enter_context(assembled)
                    outcome = stages.run(
                        *(stage, parts, workdir / name),
                        config_path=f"config.stages.{name}",
                        sources=sources,
                        origins=_origins(experiment, stage, workdir),
                        restore_step=restore_step,
                        pace=pace,
                    )
                if outcome.preempted:
                    _warn_of_end(stage, outcome)
                    return False
            return all(
                _is_complete(workdir / n, stage)
                for n, stage in experiment.stages.items()
            )


def _checked(
    experiment: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    *,
    only: str | None,
    restore_step: int | None,
) -> list[str]:
    """Return the stages to train, or refuse them; the arguments are those of `run`."""
    if only is not None and only not in experiment.stages:
        raise UserError(f"--stage: no stage {only!r}{nearest(only, experiment.order)}")
    if restore_step is not None and only is None and len(experiment.order) > 1:
        raise UserError(
            f"--restore_step={restore_step} needs the --stage whose step it is: "
            f"{', '.join(experiment.order)}."
        )
    todo = _to_do(experiment, workdir, only, goes_back=restore_step is not None)
    for name in todo:
        stage, config_path = experiment.stages[name], f"config.stages.{name}"
        for source in stage.init.values():
            warm_start.resolve_source(source, workdir, experiment.stages)
        builder.check_data(stage, config_path, Path(experiment.data_dir))
        preflight.check_rows(stage, make_mesh(stage.mesh), config_path)
        preflight.check_resume(
            stage, stage.system, workdir / name, config_path, restore_step
        )
    return todo


def _first(
    experiment: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    todo: Sequence[str],
    early: ExitStack,
) -> dict[str, _Assembled]:
    """Return what the first stage is made of, by its name, if that writes nothing.

    Args:
        experiment: of `run`.
        workdir: of `run`.
        builder: of `run`.
        todo: the stages to train.
        early: closes what is returned.
    """
    if not todo:
        return {}
    first = experiment.stages[todo[0]]
    _check_sources(experiment, first, workdir)
    if first.codes is not None:  # making codes would write them
        return {}
    assembled = _assembled(experiment, first, workdir, builder)
    return {todo[0]: early.enter_context(assembled)}


def _to_do(
    experiment: ExperimentConfig, workdir: Path, only: str | None, *, goes_back: bool
) -> list[str]:
    return [
        name
        for name in experiment.order
        if only in (None, name)
        and (goes_back or not _is_complete(workdir / name, experiment.stages[name]))
    ]


def _is_complete(directory: Path, stage: StageConfig) -> bool:
    """Say whether a stage is finished, as the first process sees it; all must ask.

    On a shared file system the others may see it later, and would go another way.
    """
    is_finished = stages.is_finished(directory, stage.train.steps)
    return bool(processes.gather([int(is_finished)])[0, 0])


def _warn_of_end(stage: StageConfig, outcome: Outcome) -> None:
    """Say where a stage that was asked to end goes on."""
    step = int(outcome.state.step)
    is_saved = outcome.saved == step or outcome.complete
    log.warning(
        "%s: stage %s %s step %d of %d; the same command resumes %s.",
        *(outcome.preempted, stage.name, "has saved" if is_saved else "ends at"),
        *(step, stage.train.steps),
        "there"
        if is_saved
        else "at the newest checkpoint, as its last steps were skipped",
    )


def run_again(
    experiment: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    step: int,
    *,
    only: str | None,
) -> Finding:
    """Execute one step of a stage again and look into it, see `replay.replay`.

    Args:
        experiment: the stages.
        workdir: of the run.
        builder: makes what the stages are made of.
        step: of the stage.
        only: name of the stage; needed if there are several.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    if only is None and len(experiment.order) == 1:
        only = experiment.order[0]
    if only is None or only not in experiment.stages:
        hint = nearest(only or "", experiment.order)
        raise UserError(f"--replay needs the --stage whose step it is{hint}")
    stage, config_path = experiment.stages[only], f"config.stages.{only}"
    with _assembled(experiment, stage, workdir, builder) as (parts, sources):
        return replay(
            stage, parts, workdir / only, step, config_path=config_path, sources=sources
        )


@contextmanager
def _assembled(
    experiment: ExperimentConfig,
    stage: StageConfig,
    workdir: Path,
    builder: StageBuilder,
) -> Iterator[_Assembled]:
    """Give the parts of a stage and what it starts from; close its files behind."""
    data_dir = Path(experiment.data_dir)
    if stage.codes is not None:
        tokenizer = experiment.stages[stage.codes.stage]
        data_dir = builder.tokenize(tokenizer, workdir / tokenizer.name, data_dir)
    sources = {
        ours: warm_start.resolve_source(source, workdir, experiment.stages)
        for ours, source in stage.init.items()
    }
    parts = builder.build(stage, f"config.stages.{stage.name}", data_dir)
    try:
        yield parts, sources
    finally:
        parts.batches.close()


def _check_sources(
    experiment: ExperimentConfig, stage: StageConfig, workdir: Path
) -> None:
    """Refuse a stage before what it starts from is complete."""
    for source in preflight.stages_needed(experiment, stage):
        if not _is_complete(workdir / source, experiment.stages[source]):
            raise UserError(
                f"stage {stage.name!r} starts from {source!r}, which is not complete "
                f"in {workdir}; run --stage={source} first, or the whole chain without "
                "--stage."
            )


def _origins(
    experiment: ExperimentConfig, stage: StageConfig, workdir: Path
) -> dict[str, str]:
    """Return a mark of what each stage has come to that a stage starts from."""
    marks = {
        name: checkpoints.newest_mark(workdir / name)
        for name in preflight.stages_needed(experiment, stage)
    }
    return {name: mark for name, mark in marks.items() if mark is not None}


def _warn_of_origins(
    experiment: ExperimentConfig, stage: StageConfig, workdir: Path
) -> None:
    """Say so if what a complete stage has started from was trained again since."""
    before = stages.origins_of(workdir / stage.name)
    others = stages.changed_origins(before, _origins(experiment, stage, workdir))
    if others:
        log.warning(
            "stage %s began from another %s than there is now; to train it again, "
            "remove %s",
            *(stage.name, " and ".join(others), workdir / stage.name),
        )


def _warn_of_later(experiment: ExperimentConfig, workdir: Path, name: str) -> None:
    """Say which stages have started from what one has come to that goes back now."""
    later = {name}
    for other in experiment.order:
        if not later.isdisjoint(
            preflight.stages_needed(experiment, experiment.stages[other])
        ):
            later.add(other)
    trained = [
        other
        for other in experiment.order
        if other in later - {name}
        and checkpoints.steps(workdir / other / "checkpoints")
    ]
    if trained:
        log.warning(
            "what was trained from stage %s stays as it is (%s); to train it again "
            "from what the stage will come to, remove %s.",
            *(name, ", ".join(trained)),
            " ".join(str(workdir / other) for other in trained),
        )


def _report_complete(
    experiment: ExperimentConfig, stage: StageConfig, workdir: Path
) -> None:
    log.info("stage %s is complete (%d steps)", stage.name, stage.train.steps)
    _warn_of_changes(stage, workdir / stage.name)
    _warn_of_origins(experiment, stage, workdir)


def _warn_of_changes(stage: StageConfig, directory: Path) -> None:
    """Say so if a complete stage was trained with another config."""
    try:
        before, _ = translate(json.loads((directory / "config.json").read_bytes()))
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    now = json.loads(json.dumps(plain(stage)))
    # What it does not say is a field that an earlier version did not have.
    changed = [key for key in now if not contains(now[key], before.get(key, now[key]))]
    if changed:
        log.warning(
            "the config of stage %s has changed since it was trained (%s); "
            "to train it again, remove %s",
            *(stage.name, ", ".join(changed), directory),
        )
