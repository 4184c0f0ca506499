"""The stages of a chain in their order, each resumable and runnable alone."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from unitoken_jax.config import UserError, nearest, plain
from unitoken_jax.train import stage, transfer
from unitoken_jax.train.job import Chain, Job

log = logging.getLogger(__name__)


class Workshop(Protocol):
    """What makes models and data; the chain itself knows neither."""

    def assemble(self, job: Job, at: str, data_dir: Path) -> stage.Parts:
        """Make the parts of a stage; `at` is the dotted path of its config."""
        ...

    def tokenise(self, tokenizer: Job, directory: Path, data_dir: Path) -> Path:
        """Return a data set like `data_dir` whose records hold codes.

        They are those of the tokenizer whose stage has this job and directory; the
        data set is made unless it exists.
        """
        ...


def run(
    chain: Chain, workdir: Path, workshop: Workshop, *, only: str | None = None
) -> bool:
    """Train what is left to train; return whether every stage is complete.

    Args:
        chain: the stages.
        workdir: where each has a directory of its name.
        workshop: makes models and data.
        only: name of the one stage to train; what it starts from must be complete.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    if only is not None and only not in chain.stages:
        raise UserError(f"--stage: no stage {only!r}{nearest(only, chain.order)}")
    for place, name in enumerate(chain.order):
        job, directory = chain.stages[name], workdir / name
        if only not in (None, name):
            continue
        if stage.is_finished(directory, job.train.steps):
            log.info("stage %s is complete (%d steps)", name, job.train.steps)
            _warn_of_changes(job, directory)
            continue
        _check_sources(chain, name, chain.order[:place], workdir)
        if not _run_stage(chain, job, workdir, workshop):
            return False
    return all(
        stage.is_finished(workdir / name, job.train.steps)
        for name, job in chain.stages.items()
    )


def _run_stage(chain: Chain, job: Job, workdir: Path, workshop: Workshop) -> bool:
    """Train one stage; return False if it was asked to end before it was complete."""
    data_dir = Path(chain.data_dir)
    if job.codes is not None:
        tokenizer = chain.stages[job.codes.stage]
        data_dir = workshop.tokenise(tokenizer, workdir / tokenizer.name, data_dir)
    sources = {
        ours: transfer.locate(source, workdir, chain.stages)
        for ours, source in job.init.items()
    }
    at = f"config.stages.{job.name}"
    parts = workshop.assemble(job, at, data_dir)
    try:
        outcome = stage.run(job, parts, workdir / job.name, at=at, sources=sources)
    finally:
        parts.batches.close()
    if outcome.preempted:
        log.warning(
            "%s: stage %s has saved step %d of %d; the same command resumes there.",
            *(outcome.preempted, job.name, int(outcome.state.step), job.train.steps),
        )
    return outcome.preempted is None


def _check_sources(
    chain: Chain, name: str, earlier: Sequence[str], workdir: Path
) -> None:
    """Refuse a stage before what it starts from is complete."""
    job = chain.stages[name]
    sources = [source.partition(":")[0] for source in job.init.values()]
    needed = [source for source in sources if source in chain.stages]
    if job.codes is not None:
        if job.codes.stage not in chain.stages:
            raise UserError(
                f"config.stages.{name}.codes.stage: no stage {job.codes.stage!r}"
                f"{nearest(job.codes.stage, earlier)}"
            )
        needed.append(job.codes.stage)
    for source in dict.fromkeys(needed):
        if source not in earlier:
            raise UserError(
                f"config.stages.{name} starts from {source!r}, which does not come "
                "before it in config.order."
            )
        steps = chain.stages[source].train.steps
        if not stage.is_finished(workdir / source, steps):
            raise UserError(
                f"stage {name!r} starts from {source!r}, which is not complete in "
                f"{workdir}; run --stage={source} first, or the whole chain without "
                "--stage."
            )


def _warn_of_changes(job: Job, directory: Path) -> None:
    """Say so if a complete stage was trained with another config."""
    try:
        before = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return
    now = json.loads(json.dumps(plain(job)))
    # `model` and `data` stand there complete, here as they were written.
    changed = [
        key
        for key, value in now.items()
        if (
            any(before.get(key, {}).get(k) != v for k, v in value.items())
            if key in ("model", "data")
            else before.get(key) != value
        )
    ]
    if changed:
        log.warning(
            "the config of stage %s has changed since it was trained (%s); "
            "to train it again, remove %s",
            *(job.name, ", ".join(changed), directory),
        )
