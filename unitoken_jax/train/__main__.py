"""Train: python -m unitoken_jax.train --config FILE --workdir DIR [--stage NAME].

Any field of the config can be overridden: --config.stages.base.train.steps=100. The
same command resumes what was interrupted. With --coordinator, --processes and --process
it is one process of several. With --replay=STEP it executes one step of the run again
and says what was not finite in it. This module wires models, data pipelines,
evaluation and report together; none of them knows another.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipelines.classes import ClassesConfig
from data_pipelines.config import KINDS, DataConfig, build_data
from data_pipelines.elements import CodeSpec
from data_pipelines.errors import DataError
from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.images.pairs import ImagesConfig, PairsConfig
from data_pipelines.loader import make_loader
from data_pipelines.pretokenize import pretokenize
from data_pipelines.storage.manifest import read_manifest
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitoken.rows import SequencesConfig
from data_pipelines.verify import verify as verify_data
from unitoken_jax import config as configs
from unitoken_jax import convert, files
from unitoken_jax.checkpoint.reader import restore_params
from unitoken_jax.config import Bounds, ConfigError, UserError, sentence
from unitoken_jax.convert import WeightsError
from unitoken_jax.evaluate import results
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.evaluate.run import run as evaluate
from unitoken_jax.generate import load as generation
from unitoken_jax.models import registry
from unitoken_jax.models.image_tokenizer import ImageTokenizer, encode_images
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.parallel.rows import local_rows
from unitoken_jax.report import page
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train import chain as chains
from unitoken_jax.train import lock, pictures, stage
from unitoken_jax.train.console import held_for_file, log_to_console, log_to_file
from unitoken_jax.train.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)
from unitoken_jax.train.job import (
    CONFIG,
    Chain,
    Job,
    WeightsConfig,
    chain_of,
    write_config,
)
from unitoken_jax.train.replay import Finding

_PROCESSES = Bounds(0, most=2**20)  # numbers of processes, and how many
_TOKENISE_BATCH = 64  # pictures; the codes do not depend on it

log = logging.getLogger("unitoken_jax.train.main")


class Workshop:
    """Makes the parts of stages from the registry of models and the data pipelines."""

    def __init__(self, workdir: Path, *, verify: bool = False) -> None:
        self._codes = workdir / "codes"
        self._verify = verify

    def system(self, job: Job, at: str) -> registry.System:
        """Build the model from the registry."""
        return registry.build(job.model, f"{at}.model")

    def check_data(self, job: Job, at: str, data_dir: Path) -> None:
        """Refuse a data set that is not there or has another tokenizer."""
        data = build_data(job.data, f"{at}.data")
        try:
            directory = Path(data.directory or data_dir)
            _read_vocabulary(self.system(job, at), data, directory, at)
        except DataError as error:
            raise UserError(f"{at}.data: {error}.") from error

    def assemble(self, job: Job, at: str, data_dir: Path) -> stage.Parts:
        """Build model and loader, and check that they fit."""
        system = self.system(job, at)
        data = build_data(job.data, f"{at}.data")
        directory = Path(data.directory or data_dir)
        frozen_models = {
            name: _frozen(weights, f"{at}.companions.{name}")
            for name, weights in job.companions.items()
        }
        try:
            vocabulary = _read_vocabulary(system, data, directory, at)
            loader = make_loader(
                data,
                directory,
                vocabulary,
                batch=job.train.batch,
                seed=job.seed,
                part=local_rows(job.train.batch, make_mesh(job.mesh)).tolist(),
                # All else was verified before the first stage.
                verify=self._verify and directory.is_relative_to(self._codes),
            )
            _check_codes(system, loader.codes, at)
        except DataError as error:
            raise UserError(f"{at}.data: {error}.") from error
        for line in loader.summary.splitlines():
            log.info("%s", line)
        draws = system.kind == "vqgan" or system.generator_loss is not None
        draw = pictures.reconstructions(system) if draws else None
        return stage.Parts(system, data, loader, draw, frozen_models)

    def tokenise(self, tokenizer: Job, directory: Path, data_dir: Path) -> Path:
        """Encode the data set with a trained VQGAN or UniTok, once."""
        at = f"config.stages.{tokenizer.name}"
        module = _image_tokenizer(self.system(tokenizer, at))
        data = build_data(tokenizer.data, f"{at}.data")
        averaged = bool(tokenizer.train.average)
        params, _ = restore_params(directory, average=averaged)
        output = self._codes / tokenizer.name
        if not processes.is_first():
            processes.wait_for_all("the image codes")
            return output
        try:
            pretokenize(
                data_dir,
                output,
                lambda images: np.asarray(encode_images(module, params, images)),
                batch=_TOKENISE_BATCH,
                image_size=data.image_size,
                tokenizer_id=_digest(params),
                background=data.background,
                codebook=_codebook(module),
                overwrite=True,
            )
        except DataError as error:
            raise UserError(f"{error}.") from error
        processes.wait_for_all("the image codes")
        return output


def _frozen(weights: WeightsConfig, at: str) -> FrozenModel:
    """Read the weights of a frozen network."""
    try:
        module, params = convert.load(weights.format, weights.path)
    except WeightsError as error:
        raise UserError(f"{at}: {error}.") from error
    return FrozenModel(module, params)


def _image_tokenizer(system: registry.System) -> ImageTokenizer:
    """Return what codes images, or say that a model does not."""
    if system.image_tokenizer is None:
        raise ConfigError(
            f"a {system.kind} gives no image codes; `codes.stage` must name a stage "
            "that trains a vqgan or a unitok."
        )
    return system.image_tokenizer


def _codebook(tokenizer: ImageTokenizer) -> tuple[int, int] | None:
    """Return codebooks and codes in each, of a tokenizer whose codes have no names."""
    if tokenizer.num_codebooks is None:
        return None
    return tokenizer.num_codebooks, tokenizer.codebook_size


def _digest(params: registry.Params) -> str:
    """Return a SHA-256 of parameters."""
    digest = hashlib.sha256()
    for path, value in sorted(flatten(params).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _read_vocabulary(
    system: registry.System, data: DataConfig, directory: Path, at: str
) -> ImageTextVocabulary | None:
    """Return the vocabulary of a data set, after a check that the model has it too."""
    if isinstance(data, ClassesConfig):  # published code files have no vocabulary
        return None
    read_manifest(directory)
    vocabulary = read_vocabulary(directory / "tokenizer.json")
    _check_vocabulary(system, vocabulary, f"{at}.model")
    return vocabulary


def _check_vocabulary(
    system: registry.System, vocabulary: ImageTextVocabulary, at: str
) -> None:
    """Refuse a model that numbers ids otherwise than the data set's tokenizer."""
    _check_equal(system, system.data.vocabulary, vocabulary, at, "tokenizer.json")


def _check_codes(system: registry.System, codes: CodeSpec | None, at: str) -> None:
    """Refuse a model of images of other codes than the data set's."""
    if codes is not None:
        _check_equal(system, system.data.codes, codes, f"{at}.model")


def _check_equal(
    system: registry.System,
    fields: Mapping[str, str],
    found: object,
    at: str,
    file: str = "",
) -> None:
    """Refuse fields of a model's config that are not what the data set says.

    Args:
        system: the model.
        fields: a field of its config → the attribute of `found` that it equals.
        found: says something of the data set, or None of what it does not know.
        at: where the model's config stands.
        file: of the data set, which says it.
    """
    where = f"data set's {file}" if file else "data set"
    wrong = [
        f"{at}.{name} is {system.value(name)}, the {where} has {value}"
        for name, attribute in fields.items()
        if (value := getattr(found, attribute, None)) is not None
        and system.value(name) != value
    ]
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}. Set the config to the data set's.")


def _check_kind(system: registry.System, kind: object, at: str) -> None:
    """Refuse a kind of data whose arrays the model's loss does not read."""
    kinds = system.data.kinds
    if kind in KINDS and kind not in kinds:
        raise ConfigError(
            f"{at}.data.kind is {kind!r}, but this {system.kind} learns from "
            f"{' or '.join(map(repr, kinds))}; set it to that."
        )


def _check_data(system: registry.System, data: DataConfig, at: str) -> None:
    """Refuse data that does not suit the model, as far as the config says."""
    field = system.data.text_length
    if (
        field is not None
        and isinstance(data, PairsConfig)
        and data.text_length > system.value(field)
    ):
        raise ConfigError(
            f"{at}.data.text_length is {data.text_length}, but "
            f"{at}.model.{field} is {system.value(field)}, the longest text of the "
            "tower; lower the one or raise the other."
        )
    if isinstance(data, SequencesConfig):
        _check_sequences(system, data, at)
    _check_size(system, data, at)


def _check_size(system: registry.System, data: DataConfig, at: str) -> None:
    """Refuse pictures of sizes that a tokenizer or a tower does not see."""
    size, needs = data.image_size, system.data
    # A tower cuts off what is left beside its last patch, as published.
    if needs.patch is not None and size < system.value(needs.patch):
        raise ConfigError(
            f"{at}.data.image_size is {size}, but {at}.model.{needs.patch} is "
            f"{system.value(needs.patch)}; one patch at least must fit."
        )
    if size % needs.pixels_per_code:
        raise ConfigError(
            f"{at}.data.image_size is {size}, but must be a multiple of "
            f"{needs.pixels_per_code}, the pixels along a code of {at}.model."
        )


def _check_source(job: Job, data: DataConfig, at: str) -> None:
    """Refuse codes that no batch would hold."""
    if job.codes is None:
        return
    if isinstance(data, ImagesConfig | PairsConfig):
        raise ConfigError(
            f"{at}.codes: data of kind {data.kind!r} holds no codes; leave it out."
        )
    if data.directory is not None:
        raise ConfigError(
            f"{at}.codes: the data would be that of {at}.data.directory, whose own "
            "codes stand in it; leave out the one or the other."
        )


def _check_sequences(system: registry.System, data: SequencesConfig, at: str) -> None:
    """Refuse packed rows that show pictures otherwise than the model sees them."""
    tower, undrawable = system.data.tower, system.data.undrawable
    vision = system.value(tower) if tower else None
    encoding, shown = data.layout.encoding, data.shows_views
    if shown and vision is None:
        raise ConfigError(
            f"{at}.model.{tower} is None, but {at}.data.layout.encoding is "
            f"{encoding!r}, whose continuous features no tower would give; set the "
            "encoding to 'discrete', or give the model a tower."
        )
    if shown and data.row_views < 1:
        raise ConfigError(
            f"{at}.data.row_views is {data.row_views}, but "
            f"{at}.data.layout.encoding is {encoding!r}, whose rows show pictures; set "
            "row_views to 1 or more."
        )
    if vision is not None and not shown:
        log.warning(
            "%s.model.%s is a tower that sees nothing, as %s.data.layout.encoding "
            "is %r: weight decay alone moves it.",
            *(at, tower, at, encoding),
        )
    # Another size of views is fine: the tower interpolates its positions.
    if vision is not None and shown and vision.patch != data.views.patch:
        raise ConfigError(
            f"{at}.data.views.patch is {data.views.patch}, but "
            f"{at}.model.{tower}.patch is {vision.patch}, so that slots would name "
            f"other features than the tower gives; set the data's to {vision.patch}."
        )
    if undrawable and system.value(undrawable) and data.mixture.draw > 0:
        raise ConfigError(
            f"{at}.model.{undrawable} gives image codes no probability, but "
            f"{at}.data.mixture.draw is {data.mixture.draw:g}, so that the model would "
            "learn to draw what it cannot; set the one to False or the other to 0."
        )


def _unread(system: registry.System, data: DataConfig, at: str) -> Iterator[str]:
    """Yield what is wrong with fields that are set and that others leave unread."""
    for field, why in system.unread.items():
        yield (
            f"{at}.model.{field} is {system.value(field)!r}, but {why}, so that it "
            "changes nothing; leave it out."
        )
    is_blind = isinstance(data, SequencesConfig) and not data.shows_views
    if is_blind and data.views != ViewsConfig():
        yield (
            f"{at}.data.views: {at}.data.layout.encoding is "
            f"{data.layout.encoding!r}, whose rows show no views; leave it out."
        )


def check_all_is_read(chain: Chain, *, begins: bool) -> None:
    """Refuse fields that are set and change nothing; warn of them in a run that is on.

    Args:
        chain: the experiment, checked by `check`.
        begins: whether it is a new run.

    Raises:
        ConfigError: naming the first such field.
    """
    for name, job in chain.stages.items():
        at = f"config.stages.{name}"
        system = registry.build(job.model, f"{at}.model")
        for fault in _unread(system, build_data(job.data, f"{at}.data"), at):
            if begins:
                raise ConfigError(fault)
            log.warning("%s", fault)


def check(chain: Chain) -> None:
    """Refuse unknown names in nodes that are converted only later, and unfit data.

    Raises:
        ConfigError: naming the field.
    """
    for name, job in chain.stages.items():
        at = f"config.stages.{name}"
        system = registry.build(job.model, f"{at}.model")
        _check_kind(system, job.data.get("kind"), at)
        data = build_data(job.data, f"{at}.data")
        _check_data(system, data, at)
        _check_source(job, data, at)
    configs.build(EvaluationConfig, chain.evaluation, "config.evaluation")
    generation.check(chain)


def _was_evaluated(chain: Chain, workdir: Path) -> bool:
    """Say whether an earlier version has evaluated the stages as they are.

    It has not written down what its numbers are of, so that times must do.
    """
    result = workdir / results.EARLIER
    if results.read(workdir) is not None or not result.exists():
        return False
    marks = [workdir / name / stage.FINISHED for name in chain.order]
    return result.stat().st_mtime >= max(mark.stat().st_mtime for mark in marks)


def _finish(chain: Chain, workdir: Path) -> None:
    """Evaluate what is not evaluated yet, and build the report page in any case."""
    try:
        if not _was_evaluated(chain, workdir):
            evaluate(chain, workdir, resume=True)
    finally:
        _report(workdir)


def train(
    chain: Chain,
    workdir: Path,
    only: str | None = None,
    written: Mapping[str, Any] | None = None,
    *,
    verify: bool = False,
    restore_step: int | None = None,
) -> bool:
    """Train what is left of a chain, then evaluate it and build its report page.

    Args:
        chain: the experiment.
        workdir: of its run; made if missing, resumed if not.
        only: the one stage to train; nothing is evaluated then.
        written: the config as it was written, for the run's record; None: `chain`'s.
        verify: compare every byte of the data with its manifest first.
        restore_step: the checkpoint of the stage to go back to.

    Returns:
        Whether every stage is complete.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    first = processes.is_first()
    with held_for_file() as release, contextlib.ExitStack() as run:
        check(chain)
        check_all_is_read(chain, begins=not (workdir / CONFIG).exists())
        if verify:
            _verify(chain)

        def begin() -> contextlib.AbstractContextManager[None]:
            """Take the folder; its log and lock outlast the stages."""
            workdir.mkdir(parents=True, exist_ok=True)
            run.enter_context(lock.only_run(workdir))
            if first:
                run.enter_context(log_to_file(workdir / "log.txt"))
                write_config(workdir, written or chain)
            release()
            return contextlib.nullcontext()

        workshop = Workshop(workdir, verify=verify)
        complete = chains.run(
            chain, workdir, workshop, only=only, restore_step=restore_step, begin=begin
        )
        if complete and chain.finish and only is None:
            if first:
                _finish(chain, workdir)
            processes.wait_for_all("the evaluation")
    return complete


def _verify(chain: Chain) -> None:
    """Refuse data that is not as its manifests say, to the last byte."""
    named = [job.data.get("directory") for job in chain.stages.values()]
    for directory in {str(name or chain.data_dir) for name in named}:
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


def replay(chain: Chain, workdir: Path, step: int, only: str | None = None) -> Finding:
    """Execute a step of a run again and print what was not finite in it.

    Args:
        chain: the experiment.
        workdir: of its run.
        step: of the stage.
        only: the stage, if there are several.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    finding = chains.run_again(chain, workdir, Workshop(workdir), step, only=only)
    for line in finding.lines():
        log.info("%s", line)
    return finding


def _number(given: int | None, variable: str) -> int:
    """Return what a flag says, or else a variable of the environment, or else 0."""
    if given is not None:
        return _PROCESSES(given, "--processes or --process")
    text = os.environ.get(variable) or "0"
    try:
        number = int(text)
    except ValueError as error:
        raise ConfigError(
            f"{variable}={text} in the environment: expected a whole number; correct "
            "it or leave it out."
        ) from error
    return _PROCESSES(number, variable)


def main() -> None:
    """Train as the flags say."""
    values = flags.FLAGS
    let_cpu_devices_meet()
    count = _number(values.processes, "JAX_NUM_PROCESSES")
    index = _number(values.process, "JAX_PROCESS_ID")
    with processes.joined(values.coordinator, count, index):
        workdir = values.workdir
        chain = chain_of(values.config, workdir)
        with log_to_console(warnings_only=not processes.is_first()):
            use_compile_cache(values.compile_cache)
            if values.replay is None:
                train(
                    chain,
                    workdir,
                    values.stage,
                    values.config,
                    verify=values.verify_data,
                    restore_step=values.restore_step,
                )
            elif values.restore_step is not None:
                raise ConfigError("--replay and --restore_step exclude each other.")
            else:
                replay(chain, workdir, values.replay, values.stage)


if __name__ == "__main__":
    configs.define_flag(required=False)
    files.define_path_flag(
        "workdir", None, "Directory of the run; resumed if it exists.", required=True
    )
    flags.DEFINE_string("stage", None, "Train this stage of a chain only.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")
    flags.DEFINE_bool(
        "verify_data", False, "Compare every byte of the data with its manifest first."
    )
    flags.DEFINE_integer(
        "replay", None, "Execute this step again and say what was not finite in it."
    )
    flags.DEFINE_integer(
        "restore_step",
        None,
        "Go back to the checkpoint of this step; newer ones are set aside.",
    )
    flags.DEFINE_string(
        "coordinator",
        os.environ.get("JAX_COORDINATOR_ADDRESS", ""),
        "HOST:PORT of process 0, of a run of several; 'auto' asks the cluster.",
    )
    flags.DEFINE_integer(
        "processes", None, "How many; if none, what JAX_NUM_PROCESSES says."
    )
    flags.DEFINE_integer(
        "process", None, "Which of them, from 0; if none, what JAX_PROCESS_ID says."
    )
    configs.run(main)
