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
from unitoken_jax.train import preflight, stage
from unitoken_jax.train.components import StageBuilder, StageComponents
from unitoken_jax.train.config import ExperimentConfig, StageConfig
from unitoken_jax.train.loop import Outcome
from unitoken_jax.train.monitor.pace import Pace
from unitoken_jax.train.replay import Finding, replay

log = logging.getLogger(__name__)

_Sources = dict[str, tuple[Path, str]]  # our subtree → directory and subtree there
_Assembled = tuple[StageComponents, _Sources]


def run(
    chain: ExperimentConfig,
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
        chain: the stages.
        workdir: where each has a directory of its name.
        builder: makes models and data.
        only: name of the one stage to train; what it starts from must be complete.
        restore_step: the checkpoint of the stage to go back to.
        begin: its context is entered before anything is written, once there is nothing
            left that a look at config, data and checkpoints would refuse.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    todo = _checked(chain, workdir, builder, only=only, restore_step=restore_step)
    with ExitStack() as early:
        ready = _first(chain, workdir, builder, todo, early)
        with begin():
            # Another run may have been here till now.
            todo = _to_do(chain, workdir, only, goes_back=restore_step is not None)
            pace = Pace(chain, workdir, todo)
            if restore_step is not None:
                _warn_of_later(chain, workdir, todo[0])
            for name in chain.order:
                job = chain.stages[name]
                if name not in todo:
                    if only in (None, name):
                        _report_complete(chain, job, workdir)
                    continue
                _check_sources(chain, job, workdir)
                with ExitStack() as now:
                    if name in ready:
                        now.push(early.pop_all())
                        parts, sources = ready[name]
                    else:
                        assembled = _assembled(chain, job, workdir, builder)
                        parts, sources = now.enter_context(assembled)
                    outcome = stage.run(
                        *(job, parts, workdir / name),
                        config_path=f"config.stages.{name}",
                        sources=sources,
                        origins=_origins(chain, job, workdir),
                        restore_step=restore_step,
                        pace=pace,
                    )
                if outcome.preempted:
                    _warn_of_end(job, outcome)
                    return False
            return all(
                _is_complete(workdir / n, job) for n, job in chain.stages.items()
            )


def _checked(
    chain: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    *,
    only: str | None,
    restore_step: int | None,
) -> list[str]:
    """Return the stages to train, or refuse them; the arguments are those of `run`."""
    if only is not None and only not in chain.stages:
        raise UserError(f"--stage: no stage {only!r}{nearest(only, chain.order)}")
    if restore_step is not None and only is None and len(chain.order) > 1:
        raise UserError(
            f"--restore_step={restore_step} needs the --stage whose step it is: "
            f"{', '.join(chain.order)}."
        )
    todo = _to_do(chain, workdir, only, goes_back=restore_step is not None)
    for name in todo:
        job, config_path = chain.stages[name], f"config.stages.{name}"
        for source in job.init.values():
            warm_start.resolve_source(source, workdir, chain.stages)
        builder.check_data(job, config_path, Path(chain.data_dir))
        preflight.check_rows(job, make_mesh(job.mesh), config_path)
        system = builder.system(job, config_path)
        preflight.check_resume(job, system, workdir / name, config_path, restore_step)
    return todo


def _first(
    chain: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    todo: Sequence[str],
    early: ExitStack,
) -> dict[str, _Assembled]:
    """Return what the first stage is made of, by its name, if that writes nothing.

    Args:
        chain: of `run`.
        workdir: of `run`.
        builder: of `run`.
        todo: the stages to train.
        early: closes what is returned.
    """
    if not todo:
        return {}
    first = chain.stages[todo[0]]
    _check_sources(chain, first, workdir)
    if first.codes is not None:  # making codes would write them
        return {}
    assembled = _assembled(chain, first, workdir, builder)
    return {todo[0]: early.enter_context(assembled)}


def _to_do(
    chain: ExperimentConfig, workdir: Path, only: str | None, *, goes_back: bool
) -> list[str]:
    return [
        name
        for name in chain.order
        if only in (None, name)
        and (goes_back or not _is_complete(workdir / name, chain.stages[name]))
    ]


def _is_complete(directory: Path, job: StageConfig) -> bool:
    """Say whether a stage is finished, as the first process sees it; all must ask.

    On a shared file system the others may see it later, and would go another way.
    """
    is_finished = stage.is_finished(directory, job.train.steps)
    return bool(processes.gather([int(is_finished)])[0, 0])


def _warn_of_end(job: StageConfig, outcome: Outcome) -> None:
    """Say where a stage that was asked to end goes on."""
    step = int(outcome.state.step)
    is_saved = outcome.saved == step or outcome.complete
    log.warning(
        "%s: stage %s %s step %d of %d; the same command resumes %s.",
        *(outcome.preempted, job.name, "has saved" if is_saved else "ends at"),
        *(step, job.train.steps),
        "there"
        if is_saved
        else "at the newest checkpoint, as its last steps were skipped",
    )


def run_again(
    chain: ExperimentConfig,
    workdir: Path,
    builder: StageBuilder,
    step: int,
    *,
    only: str | None,
) -> Finding:
    """Execute one step of a stage again and look into it, see `replay.replay`.

    Args:
        chain: the stages.
        workdir: of the run.
        builder: makes models and data.
        step: of the stage.
        only: name of the stage; needed if there are several.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    if only is None and len(chain.order) == 1:
        only = chain.order[0]
    if only is None or only not in chain.stages:
        hint = nearest(only or "", chain.order)
        raise UserError(f"--replay needs the --stage whose step it is{hint}")
    job, config_path = chain.stages[only], f"config.stages.{only}"
    with _assembled(chain, job, workdir, builder) as (parts, sources):
        return replay(
            job, parts, workdir / only, step, config_path=config_path, sources=sources
        )


@contextmanager
def _assembled(
    chain: ExperimentConfig, job: StageConfig, workdir: Path, builder: StageBuilder
) -> Iterator[_Assembled]:
    """Give the parts of a stage and what it starts from; close its files behind."""
    data_dir = Path(chain.data_dir)
    if job.codes is not None:
        tokenizer = chain.stages[job.codes.stage]
        data_dir = builder.tokenize(tokenizer, workdir / tokenizer.name, data_dir)
    sources = {
        ours: warm_start.resolve_source(source, workdir, chain.stages)
        for ours, source in job.init.items()
    }
    parts = builder.build(job, f"config.stages.{job.name}", data_dir)
    try:
        yield parts, sources
    finally:
        parts.batches.close()


def _check_sources(chain: ExperimentConfig, job: StageConfig, workdir: Path) -> None:
    """Refuse a stage before what it starts from is complete."""
    for source in preflight.stages_needed(chain, job):
        if not _is_complete(workdir / source, chain.stages[source]):
            raise UserError(
                f"stage {job.name!r} starts from {source!r}, which is not complete in "
                f"{workdir}; run --stage={source} first, or the whole chain without "
                "--stage."
            )


def _origins(
    chain: ExperimentConfig, job: StageConfig, workdir: Path
) -> dict[str, str]:
    """Return a mark of what each stage has come to that a job starts from."""
    marks = {
        name: checkpoints.newest_mark(workdir / name)
        for name in preflight.stages_needed(chain, job)
    }
    return {name: mark for name, mark in marks.items() if mark is not None}


def _warn_of_origins(chain: ExperimentConfig, job: StageConfig, workdir: Path) -> None:
    """Say so if what a complete stage has started from was trained again since."""
    before = stage.origins_of(workdir / job.name)
    others = stage.changed_origins(before, _origins(chain, job, workdir))
    if others:
        log.warning(
            "stage %s began from another %s than there is now; to train it again, "
            "remove %s",
            *(job.name, " and ".join(others), workdir / job.name),
        )


def _warn_of_later(chain: ExperimentConfig, workdir: Path, name: str) -> None:
    """Say which stages have started from what one has come to that goes back now."""
    later = {name}
    for other in chain.order:
        if not later.isdisjoint(preflight.stages_needed(chain, chain.stages[other])):
            later.add(other)
    trained = [
        other
        for other in chain.order
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


def _report_complete(chain: ExperimentConfig, job: StageConfig, workdir: Path) -> None:
    log.info("stage %s is complete (%d steps)", job.name, job.train.steps)
    _warn_of_changes(job, workdir / job.name)
    _warn_of_origins(chain, job, workdir)


def _warn_of_changes(job: StageConfig, directory: Path) -> None:
    """Say so if a complete stage was trained with another config."""
    try:
        before, _ = translate(json.loads((directory / "config.json").read_bytes()))
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    now = json.loads(json.dumps(plain(job)))
    # `model` and `data` stand there complete, here as they were written.
    partial = ("model", "data")
    changed = [
        key
        for key, value in now.items()
        if before.get(key) != value
        and not (key in partial and contains(before.get(key), value))
    ]
    if changed:
        log.warning(
            "the config of stage %s has changed since it was trained (%s); "
            "to train it again, remove %s",
            *(job.name, ", ".join(changed), directory),
        )
