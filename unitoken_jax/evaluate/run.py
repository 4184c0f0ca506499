"""The evaluation of a run: which evaluators run, and what becomes of what they find.

`run` is what the command line and the end of a training call. It writes
WORKDIR/evaluation/NAME.json, with examples as images in WORKDIR/evaluation/NAME/.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from unitoken_jax import config as configs
from unitoken_jax.config import UserError
from unitoken_jax.errors import FailedError
from unitoken_jax.evaluate import evaluator, memorization, results
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.evaluate.evaluator import (
    EvaluatedRun,
    Evaluation,
    Evaluator,
    SetAside,
    reason,
)
from unitoken_jax.evaluate.statistics.intervals import Measure, table
from unitoken_jax.files import read_json
from unitoken_jax.renamed import translate
from unitoken_jax.train.config import ExperimentConfig
from unitoken_jax.train.experiment import CONFIG, build_experiment

log = logging.getLogger("unitoken_jax.evaluate")

_MEMORIZATION = memorization.Memorization.name


class EvaluationError(FailedError):
    """Parts of an evaluation have failed; the others are written."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """An evaluator that is to run.

    Attributes:
        evaluator: Its class.
        config: Its config, as that class takes it.
    """

    evaluator: type[Evaluator[Any]]
    config: object


def run(
    experiment: ExperimentConfig,
    workdir: Path,
    name: str | None = None,
    *,
    resume: bool = False,
) -> results.Content:
    """Evaluate a run and write what was found to its directory.

    Evaluators that no model has are left out; one that fails leaves the others theirs.

    Args:
        experiment: The experiment, its `evaluation` group saying what to measure.
        workdir: The run's directory; its stages must have checkpoints.
        name: The evaluation's name; None makes one, see `results.name_of`.
        resume: Keep what one of the same stages with the same config has found.

    Returns:
        The content of WORKDIR/evaluation/NAME.json.

    Raises:
        UserError: Something is missing, damaged or cannot be written.
        EvaluationError: A part has failed; what the others found is written.
    """
    config = experiment.evaluation
    wanted = evaluators(experiment)
    subject = results.Subject.of(workdir, experiment.order, _complete(experiment))
    changed = _changed(workdir, subject, wanted)
    if name is None:
        name = results.name_of(changed, subject.config)
    else:
        results.check_name(workdir, name, changed, subject)
    before = results.read(workdir, name) or {}
    before = before if results.is_of(before, subject) else {}
    failed: dict[str, str] = {}
    if resume and before and not results.failures(before):
        log.info("evaluated already: %s", workdir / results.FOLDER / f"{name}.json")
        content = before
    else:
        results.check_place(workdir)
        known = results.parts(before)
        if resume:
            known = _kept(wanted, known, before)
            wanted = {part: wanted[part] for part in wanted if part not in known}
        began = time.perf_counter()
        with contextlib.closing(_open(experiment, workdir)) as source:
            folder = workdir / results.FOLDER / name
            parts, failed = _measure(source, wanted, known, folder)
        seconds = round(time.perf_counter() - began, 1)
        of = results.describe(name, changed, subject)
        content = {"seconds": seconds, **of, **parts}
        log.info("%s", results.write(workdir, name, content))
    if failed:
        raise EvaluationError(
            f"evaluation: {len(failed)} of {len(failed) + len(results.parts(content))} "
            f"parts failed, the others are written: {_listed(failed)}."
        )
    if config.memorization is not None and _MEMORIZATION in results.parts(content):
        log.info("%s", _verdict(content[_MEMORIZATION], config.memorization))
    return content


def evaluators(experiment: ExperimentConfig) -> dict[str, Planned]:
    """Return the evaluators that apply, in the order in which they run.

    Args:
        experiment: The experiment. What its models do not have is left out where its
            `evaluation` says "auto"; what that names will say what is missing.
    """
    config, complete = experiment.evaluation, experiment.evaluation.complete()
    offered = evaluator.offered(stage.system for stage in experiment.stages.values())
    every = evaluator.known_evaluators() | offered
    planned: dict[str, Planned] = {}
    for field in dataclasses.fields(config):
        name = field.name
        part = getattr(complete, name)
        if name not in every or part is None:
            continue
        if name not in offered and getattr(config, name) == "auto":
            kinds = " or ".join(evaluator.measured_kinds(name))
            log.info(
                "%s: left out, the config trains no %s that it can measure",
                *(name, kinds),
            )
            continue
        planned[name] = Planned(every[name], part)
    return planned


def _kept(
    wanted: Mapping[str, Planned],
    known: Mapping[str, results.Part],
    before: results.Content,
) -> dict[str, results.Part]:
    """Return what is not measured again when an evaluation is resumed.

    Drawings are not kept: who looks at them after a failure needs them made again.
    """
    failed = results.failures(before)
    classes = {part: planned.evaluator for part, planned in wanted.items()}
    blind = any(part in failed and c.sees_drawings for part, c in classes.items())
    lost = {
        part for part, c in classes.items() if blind and (c.draws or c.sees_drawings)
    }
    return {part: known[part] for part in known if part not in lost}


def _listed(failed: Mapping[str, str]) -> str:
    return "; ".join(f"{part}: {said}" for part, said in failed.items())


def _verdict(part: results.Part, config: memorization.MemorizationConfig) -> str:
    measures = {name: Measure(**fields) for name, fields in part["measures"].items()}
    return memorization.verdict(Evaluation(measures, part["samples"]), config)


def _complete(experiment: ExperimentConfig) -> results.Content:
    """Return all that changes what is measured, with defaults, as plain values."""
    return {
        "data_dir": experiment.data_dir,
        "evaluation": configs.plain(experiment.evaluation.complete()),
        "generation": configs.plain(experiment.generation),
        "stages": {
            name: {
                "data": configs.plain(stage.data),
                "codes": configs.plain(stage.codes),
                "ema": bool(stage.train.ema),
            }
            for name, stage in experiment.stages.items()
        },
    }


def _changed(
    workdir: Path, subject: results.Subject, parts: Iterable[str]
) -> list[str]:
    """Say what of a config is not the run's own."""
    own = _own(workdir)
    if own is not None:
        return results.changes(own, subject.config)
    # An earlier version has not written down its config: what it has found stays the
    # run's own beside what is less, or was asked for with fields set.
    earlier = results.parts(results.read_earlier(workdir))
    less = [f"evaluation.{part}=None" for part in earlier if part not in parts]
    said = [f"{field}={value}" for field, value in configs.overrides()]
    return (said or less) if earlier else []


def _own(workdir: Path) -> results.Content | None:
    """Return the complete config that a run was trained with, or first evaluated."""
    try:
        node, _ = translate(configs.plain(read_json((workdir / CONFIG).read_bytes())))
        own = _complete(build_experiment(node))
        return results.Subject.of(workdir, (), own).config
    except (OSError, ValueError, UserError):
        of = (results.read(workdir) or {}).get(results.OF)
        return of.get("config") if isinstance(of, Mapping) else None


def _open(experiment: ExperimentConfig, workdir: Path) -> EvaluatedRun:
    try:
        return EvaluatedRun(experiment, workdir)
    except DataError as error:
        raise UserError(f"evaluation: {error}.") from error


def _measure(
    source: EvaluatedRun,
    wanted: Mapping[str, Planned],
    known: Mapping[str, results.Part],
    folder: Path,
) -> tuple[dict[str, results.Part], dict[str, str]]:
    """Run evaluators; what one that fails has found before is kept.

    Args:
        source: What they are shown.
        wanted: The evaluators by name.
        known: Parts of the same evaluation that there are already.
        folder: What takes the examples' images.

    Returns:
        The parts for the file, and the reasons of those that failed.

    Raises:
        EvaluationError: All have failed, and nothing is known.
    """
    found: dict[str, Evaluation] = {}
    asides: dict[str, SetAside] = {}
    failed: dict[str, str] = {}
    for part, planned in wanted.items():
        start = time.perf_counter()
        evaluation, asides[part] = _tried(source, part, planned)
        if isinstance(evaluation, str):
            failed[part] = evaluation
        elif evaluation.measures:
            found[part] = evaluation
        log.info("%s: %.0f s", part, time.perf_counter() - start)
    rows = {
        f"{part} {key}": measure
        for part, evaluation in found.items()
        for key, measure in evaluation.measures.items()
    }
    kept = {part: known[part] for part in known if part not in found}
    if failed and not found and not kept:
        raise EvaluationError(f"evaluation: {_listed(failed)}.")
    log.info("%s", table(rows))
    parts: dict[str, results.Part] = {
        part: {"error": said} for part, said in failed.items()
    }
    parts |= results.store(folder, found, kept)
    for part in found:
        if asides[part].faults:
            parts[part]["set_aside"] = asides[part].content()
    order = [field.name for field in dataclasses.fields(EvaluationConfig)]
    return {part: parts[part] for part in order if part in parts}, failed


def _tried(
    source: EvaluatedRun, part: str, planned: Planned
) -> tuple[Evaluation | str, SetAside]:
    """Run an evaluator; return what it found or why it failed, and what it left out."""
    source.set_aside = aside = SetAside()
    try:
        evaluation = planned.evaluator(planned.config, source).run()
    except Exception as error:
        said = reason(error) + (f" ({aside})" if aside.faults else "")
        log.warning("%s failed: %s", part, said)
        log.info("why", exc_info=True, extra={"file_only": True})
        return said, aside
    if aside.faults:
        log.warning("%s: %s", part, aside)
    return evaluation, aside
