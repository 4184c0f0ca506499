"""One experiment from its config to its report: check, train, evaluate, report."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.verify import verify as verify_data
from unitoken_jax.config import UserError, sentence
from unitoken_jax.evaluate import results
from unitoken_jax.evaluate.run import run as evaluate
from unitoken_jax.generate import load as generation
from unitoken_jax.models import registry
from unitoken_jax.models.system import Params, System
from unitoken_jax.report import page
from unitoken_jax.runtime import lock, processes
from unitoken_jax.runtime.console import held_for_file, log_to_file
from unitoken_jax.train import chain as chains
from unitoken_jax.train import preflight
from unitoken_jax.train import stage as stages
from unitoken_jax.train.components import StageBuilder
from unitoken_jax.train.config import ExperimentConfig
from unitoken_jax.train.experiment import CONFIG, write_config
from unitoken_jax.train.replay import Finding

log = logging.getLogger(__name__)


def check(
    experiment: ExperimentConfig,
    abstract_params: Callable[[System], Params] = registry.abstract_params,
    logical_axes: Callable[[System], Params] = registry.logical_axes,
) -> None:
    """Refuse what does not fit, before anything is written or compiled.

    Args:
        experiment: to be trained and evaluated.
        abstract_params: of a model, for who has found them before.
        logical_axes: likewise, the names of their axes.

    Raises:
        ConfigError: naming the field.
    """
    preflight.check_data(experiment)
    generation.check(experiment)
    preflight.check_models(experiment, abstract_params, logical_axes)


def train(
    experiment: ExperimentConfig,
    workdir: Path,
    only: str | None = None,
    written: Mapping[str, object] | None = None,
    *,
    verify: bool = False,
    restore_step: int | None = None,
) -> bool:
    """Train what is left of a chain, then evaluate it and build its report page.

    Args:
        experiment: the experiment.
        workdir: of its run; made if missing, resumed if not.
        only: the one stage to train; nothing is evaluated then.
        written: the config as it was written, for the run's record; None: as it is.
        verify: compare every byte of the data with its manifest first.
        restore_step: the checkpoint of the stage to go back to.

    Returns:
        Whether every stage is complete.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    first = processes.is_first()
    with held_for_file() as release, contextlib.ExitStack() as run:
        builder = StageBuilder(workdir, verify=verify)
        check(experiment)
        preflight.check_all_is_read(experiment, begins=not (workdir / CONFIG).exists())
        if verify:
            _verify(experiment)

        def begin() -> contextlib.AbstractContextManager[None]:
            """Take the folder; its log and lock outlast the stages."""
            workdir.mkdir(parents=True, exist_ok=True)
            run.enter_context(lock.only_run(workdir))
            if first:
                run.enter_context(log_to_file(workdir / "log.txt"))
                write_config(workdir, written or experiment)
            release()
            return contextlib.nullcontext()

        complete = chains.run(
            experiment,
            workdir,
            builder,
            only=only,
            restore_step=restore_step,
            begin=begin,
        )
        if complete and experiment.finish and only is None:
            if first:
                _finish(experiment, workdir)
            processes.wait_for_all("the evaluation")
    return complete


def _verify(experiment: ExperimentConfig) -> None:
    """Refuse data that is not as its manifests say, to the last byte."""
    named = [stage.data.directory for stage in experiment.stages.values()]
    for directory in {str(name or experiment.data_dir) for name in named}:
        try:
            faults = verify_data(Path(directory))
        except DataError as error:
            raise UserError(f"--verify_data: {error}.") from error
        if faults:
            raise UserError(f"--verify_data: {'; '.join(faults)}.")
        log.info("%s: every file is as it was written", directory)


def _report(workdir: Path) -> None:
    """Build the report page; the run is complete also without."""
    try:
        log.info("report: %s", page.build(workdir))
    except Exception as error:
        said = sentence(error) if isinstance(error, OSError) else str(error)
        log.warning(
            "the report page is not built: %s Nothing else is lost: python -m "
            "unitoken_jax.report --workdir %s builds it.",
            *(said, workdir),
        )
        log.info("why", exc_info=True, extra={"file_only": True})


def replay(
    experiment: ExperimentConfig, workdir: Path, step: int, only: str | None = None
) -> Finding:
    """Execute a step of a run again and print what was not finite in it.

    Args:
        experiment: the experiment.
        workdir: of its run.
        step: of the stage.
        only: the stage, if there are several.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    finding = chains.run_again(
        experiment, workdir, StageBuilder(workdir), step, only=only
    )
    for line in finding.lines():
        log.info("%s", line)
    return finding


def _was_evaluated(experiment: ExperimentConfig, workdir: Path) -> bool:
    """Say whether an earlier version has evaluated the stages as they are.

    It has not written down what its numbers are of, so that times must do.
    """
    result = workdir / results.EARLIER
    if results.read(workdir) is not None or not result.exists():
        return False
    marks = [workdir / name / stages.FINISHED for name in experiment.order]
    return result.stat().st_mtime >= max(mark.stat().st_mtime for mark in marks)


def _finish(experiment: ExperimentConfig, workdir: Path) -> None:
    """Evaluate what is not evaluated yet, and build the report page in any case."""
    try:
        if not _was_evaluated(experiment, workdir):
            evaluate(experiment, workdir, resume=True)
    finally:
        _report(workdir)
