"""The stages of a chain in their order, each resumable and runnable alone."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.config import UserError, contains, nearest, plain
from unitoken_jax.models import registry
from unitoken_jax.models.system import System
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.renamed import translate
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train import stage
from unitoken_jax.train.job import Chain, Job
from unitoken_jax.train.optimizer import make_optimizer
from unitoken_jax.train.pace import Pace
from unitoken_jax.train.replay import Finding, replay

log = logging.getLogger(__name__)

_Sources = dict[str, tuple[Path, str]]  # our subtree → directory and subtree there
_Assembled = tuple[stage.Parts, _Sources]


class Workshop(Protocol):
    """What makes models and data; the chain itself knows neither."""

    def system(self, job: Job, at: str) -> System:
        """Make the model of a stage; `at` is the dotted path of its config."""
        ...

    def check_data(self, job: Job, at: str, data_dir: Path) -> None:
        """Refuse a data set that is not there or does not suit the model."""
        ...

    def assemble(self, job: Job, at: str, data_dir: Path) -> stage.Parts:
        """Make all parts of a stage."""
        ...

    def tokenise(self, tokenizer: Job, directory: Path, data_dir: Path) -> Path:
        """Return a data set like `data_dir` whose records hold codes.

        They are those of the tokenizer whose stage has this job and directory; the
        data set is made unless it exists.
        """
        ...


def check(
    chain: Chain,
    workshop: Workshop,
    abstract_params: Callable[[System], registry.Params] = registry.abstract_params,
) -> None:
    """Refuse at once what would only be noticed when a later stage begins.

    Args:
        chain: the stages.
        workshop: makes models.
        abstract_params: of a model, for who has found them before.

    Raises:
        UserError: a model or optimizer that cannot be built, or a stage that starts
            from what no earlier stage trains.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in chain.order:
        job, at = chain.stages[name], f"config.stages.{name}"
        system = workshop.system(job, at)
        stage.check_microbatches(job, system, at)
        stage.check_adversary(job, system, at)
        params = flatten(registry.check_shapes(system, f"{at}.model", abstract_params))
        own = {path: leaf.shape for path, leaf in params.items()}
        make_optimizer(job.optimizer, own, job.train.steps, f"{at}.optimizer")
        for source in _stages_needed(chain, job):
            if source not in shapes:
                raise UserError(
                    f"{at} starts from {source!r}, which does not come before it in "
                    f"config.order{nearest(source, shapes)}"
                )
        for ours, source in job.init.items():
            start, part = warm_start.part(source)
            if start in shapes:
                prefix = f"{part}/" if part else ""
                found = {
                    path.removeprefix(prefix): shape
                    for path, shape in shapes[start].items()
                    if path.startswith(prefix)
                }
                warm_start.check_part(own, ours, found, source)
        shapes[name] = own


def _stages_needed(chain: Chain, job: Job) -> list[str]:
    """Return the stages that a job starts from, each once."""
    starts = [warm_start.part(source)[0] for source in job.init.values()]
    needed = [start for start in starts if start in chain.stages]
    needed += [job.codes.stage] if job.codes else []
    return list(dict.fromkeys(needed))


def run(
    chain: Chain,
    workdir: Path,
    workshop: Workshop,
    *,
    only: str | None = None,
    restore_step: int | None = None,
    begin: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> bool:
    """Train what is left to train; return whether every stage is complete.

    A run that is asked to end as its last stage becomes complete is not called so: what
    follows is left to the next start.

    Args:
        chain: the stages.
        workdir: where each has a directory of its name.
        workshop: makes models and data.
        only: name of the one stage to train; what it starts from must be complete.
        restore_step: the checkpoint of the stage to go back to.
        begin: its context is entered before anything is written, once there is nothing
            left that a look at config, data and checkpoints would refuse.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    if only is not None and only not in chain.stages:
        raise UserError(f"--stage: no stage {only!r}{nearest(only, chain.order)}")
    if restore_step is not None and only is None and len(chain.order) > 1:
        raise UserError(
            f"--restore_step={restore_step} needs the --stage whose step it is: "
            f"{', '.join(chain.order)}."
        )
    check(chain, workshop)
    goes_back = restore_step is not None
    todo = _to_do(chain, workdir, only, goes_back=goes_back)
    for name in todo:
        job, at = chain.stages[name], f"config.stages.{name}"
        for source in job.init.values():
            warm_start.locate(source, workdir, chain.stages)
        workshop.check_data(job, at, Path(chain.data_dir))
        stage.check_rows(job, make_mesh(job.mesh), at)
        system = workshop.system(job, at)
        stage.check_resume(job, system, workdir / name, at, restore_step)
    with ExitStack() as early:
        ready: dict[str, _Assembled] = {}
        if todo:
            first = chain.stages[todo[0]]
            _check_sources(chain, first, workdir)
            if first.codes is None:  # making codes would write them
                assembled = _assembled(chain, first, workdir, workshop)
                ready[todo[0]] = early.enter_context(assembled)
        with begin():
            return _train(
                chain,
                workdir,
                workshop,
                only=only,
                restore_step=restore_step,
                ready=ready,
                early=early,
            )


def _to_do(
    chain: Chain, workdir: Path, only: str | None, *, goes_back: bool
) -> list[str]:
    return [
        name
        for name in chain.order
        if only in (None, name)
        and (goes_back or not _is_complete(workdir / name, chain.stages[name]))
    ]


def _train(
    chain: Chain,
    workdir: Path,
    workshop: Workshop,
    *,
    only: str | None,
    restore_step: int | None,
    ready: dict[str, _Assembled],
    early: ExitStack,
) -> bool:
    """Train what is left to train; see `run`.

    Args:
        chain: of `run`.
        workdir: of `run`.
        workshop: of `run`.
        only: of `run`.
        restore_step: of `run`.
        ready: what has been assembled, by stage.
        early: closes that.
    """
    # Another run may have been here till now.
    todo = _to_do(chain, workdir, only, goes_back=restore_step is not None)
    pace = Pace(chain, workdir, todo)
    if restore_step is not None:
        _warn_of_later(chain, workdir, todo[0])
    for name in chain.order:
        job = chain.stages[name]
        if name in todo:
            _check_sources(chain, job, workdir)
            with ExitStack() as now:
                if name in ready:
                    now.push(early.pop_all())
                    parts, sources = ready[name]
                else:
                    assembled = _assembled(chain, job, workdir, workshop)
                    parts, sources = now.enter_context(assembled)
                if not _run_stage(
                    job,
                    workdir,
                    parts,
                    sources,
                    origins=_origins(chain, job, workdir),
                    pace=pace,
                    restore_step=restore_step,
                ):
                    return False
        elif only in (None, name):
            log.info("stage %s is complete (%d steps)", name, job.train.steps)
            _warn_of_changes(job, workdir / name)
            _warn_of_origins(chain, job, workdir)
    return all(_is_complete(workdir / name, job) for name, job in chain.stages.items())


def _is_complete(directory: Path, job: Job) -> bool:
    """Say whether a stage is finished, as the first process sees it; all must ask.

    On a shared file system the others may see it later, and would go another way.
    """
    is_finished = stage.is_finished(directory, job.train.steps)
    return bool(processes.gather([int(is_finished)])[0, 0])


def _run_stage(
    job: Job,
    workdir: Path,
    parts: stage.Parts,
    sources: _Sources,
    *,
    origins: Mapping[str, str],
    pace: Pace,
    restore_step: int | None,
) -> bool:
    """Train one stage; return False if the run was asked to end in it."""
    outcome = stage.run(
        job,
        parts,
        workdir / job.name,
        at=f"config.stages.{job.name}",
        sources=sources,
        origins=origins,
        restore_step=restore_step,
        pace=pace,
    )
    if outcome.preempted:
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
    return outcome.preempted is None


def run_again(
    chain: Chain, workdir: Path, workshop: Workshop, step: int, *, only: str | None
) -> Finding:
    """Execute one step of a stage again and look into it, see `replay.replay`.

    Args:
        chain: the stages.
        workdir: of the run.
        workshop: makes models and data.
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
    job, at = chain.stages[only], f"config.stages.{only}"
    with _assembled(chain, job, workdir, workshop) as (parts, sources):
        return replay(job, parts, workdir / only, step, at=at, sources=sources)


@contextmanager
def _assembled(
    chain: Chain, job: Job, workdir: Path, workshop: Workshop
) -> Iterator[_Assembled]:
    """Give the parts of a stage and what it starts from; close its files behind."""
    data_dir = Path(chain.data_dir)
    if job.codes is not None:
        tokenizer = chain.stages[job.codes.stage]
        data_dir = workshop.tokenise(tokenizer, workdir / tokenizer.name, data_dir)
    sources = {
        ours: warm_start.locate(source, workdir, chain.stages)
        for ours, source in job.init.items()
    }
    parts = workshop.assemble(job, f"config.stages.{job.name}", data_dir)
    try:
        yield parts, sources
    finally:
        parts.batches.close()


def _check_sources(chain: Chain, job: Job, workdir: Path) -> None:
    """Refuse a stage before what it starts from is complete."""
    for source in _stages_needed(chain, job):
        if not _is_complete(workdir / source, chain.stages[source]):
            raise UserError(
                f"stage {job.name!r} starts from {source!r}, which is not complete in "
                f"{workdir}; run --stage={source} first, or the whole chain without "
                "--stage."
            )


def _origins(chain: Chain, job: Job, workdir: Path) -> dict[str, str]:
    """Return a mark of what each stage has come to that a job starts from."""
    marks = {
        name: checkpoints.newest_mark(workdir / name)
        for name in _stages_needed(chain, job)
    }
    return {name: mark for name, mark in marks.items() if mark is not None}


def _warn_of_origins(chain: Chain, job: Job, workdir: Path) -> None:
    """Say so if what a complete stage has started from was trained again since."""
    before = stage.origins_of(workdir / job.name)
    others = stage.changed_origins(before, _origins(chain, job, workdir))
    if others:
        log.warning(
            "stage %s began from another %s than there is now; to train it again, "
            "remove %s",
            *(job.name, " and ".join(others), workdir / job.name),
        )


def _warn_of_later(chain: Chain, workdir: Path, name: str) -> None:
    """Say which stages have started from what one has come to that goes back now."""
    later = {name}
    for other in chain.order:
        if not later.isdisjoint(_stages_needed(chain, chain.stages[other])):
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


def _warn_of_changes(job: Job, directory: Path) -> None:
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
