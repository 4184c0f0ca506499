"""From a run's directory to a trained model that draws and answers."""

import dataclasses
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from jax.sharding import Mesh

from data_pipelines.errors import DataError
from data_pipelines.storage.integrity import check_tokenizer
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.config import ConfigError, UserError, build, nearest, plain
from unitoken_jax.generate.config import GenerationConfig
from unitoken_jax.generate.sampler import Sampler, Trained
from unitoken_jax.models import registry
from unitoken_jax.models.system import System, resolve
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.config import ExperimentConfig
from unitoken_jax.train.experiment import experiment_of

log = logging.getLogger("unitoken_jax.generate")


def load(
    workdir: Path, experiment: ExperimentConfig | None = None, **changes: object
) -> Sampler:
    """Return a trained model with its tokenizer, ready to draw and answer.

    Args:
        workdir: Of a run.
        experiment: Whose run it is; its `generation` group says which stages and how.
            None is the one that the run keeps.
        **changes: Fields of `GenerationConfig` to set; None leaves one as it is.

    Raises:
        UserError: Something is missing or does not fit, in a sentence.
    """
    experiment = experiment or experiment_of(None, workdir)
    given = {key: value for key, value in changes.items() if value is not None}
    fields = plain(experiment.generation) | given
    config = build(GenerationConfig, fields, "config.generation")
    mesh = make_mesh(config.mesh)
    name = find_sampled_stage(experiment, config)
    check_fields(config, experiment.stages[name].system)
    source = find_tokenizer_stage(experiment, config, name)
    model, tokenizer = (
        restore(experiment, stage, workdir, mesh) for stage in (name, source)
    )
    data_dir = Path(model.data.directory or experiment.data_dir)
    try:
        check_tokenizer(data_dir, "tokenizer.json")
        sampler = _sampler(model.system)
        return sampler.build(model, tokenizer, data_dir, config, mesh)
    except DataError as error:
        raise UserError(f"config.stages.{name}.data: {error}.") from error


def check(experiment: ExperimentConfig) -> None:
    """Refuse a `generation` group that is wrong or that its model does not read.

    Raises:
        ConfigError: It is; the message names the field.
    """
    config, stages = experiment.generation, experiment.stages
    if config.model or any(stage.system.sampler for stage in stages.values()):
        name = find_sampled_stage(experiment, config)
        check_fields(config, stages[name].system)


def check_fields(config: GenerationConfig, system: System) -> None:
    """Refuse fields that the sampler of a model does not read.

    Raises:
        ConfigError: One of them is set.
    """
    for field in dataclasses.fields(GenerationConfig):
        if field.name not in _sampler(system).unread:
            continue
        if getattr(config, field.name) != field.default:
            readers = [
                repr(other.kind)
                for other in _default_systems()
                if other.sampler and field.name not in _sampler(other).unread
            ]
            raise ConfigError(
                f"config.generation.{field.name}: a {system.kind} does not read it, "
                f"only {' or '.join(readers)}; leave it out."
            )


def find_sampled_stage(experiment: ExperimentConfig, config: GenerationConfig) -> str:
    """Return the stage whose model draws and answers.

    Raises:
        ConfigError: There is none.
    """
    kinds = _kinds(experiment, lambda system: system.sampler is not None)
    return find_stage(experiment, config.model, kinds, "config.generation.model")


def find_tokenizer_stage(
    experiment: ExperimentConfig, config: GenerationConfig, model: str
) -> str:
    """Return the stage of the image tokenizer whose codes a model speaks.

    Args:
        experiment: The experiment.
        config: May name it.
        model: The stage of the model.

    Raises:
        ConfigError: There is none.
    """
    codes = experiment.stages[model].codes
    source = config.tokenizer or (codes.stage if codes else "")
    in_codebooks = bool(experiment.stages[model].system.data.codes)

    def fits(system: System) -> bool:
        tokenizer = system.image_tokenizer
        if tokenizer is None:
            return False
        return (tokenizer.num_codebooks is not None) == in_codebooks

    kinds = _kinds(experiment, fits)
    return find_stage(experiment, source, kinds, "config.generation.tokenizer")


def find_stage(
    experiment: ExperimentConfig,
    name: str,
    kind: str | tuple[str, ...],
    config_path: str,
) -> str:
    """Return the stage `name`, or the last one of a kind of model if it is ''.

    Args:
        experiment: The experiment.
        name: Of a stage, or ''.
        kind: Of model, such as 'unitoken', or several that will do.
        config_path: Dotted path of the field that names it, for messages.

    Raises:
        ConfigError: There is no such stage, or it trains another kind of model.
    """
    wanted = (kind,) if isinstance(kind, str) else kind
    *others, last = wanted
    kind = f"{', '.join(others)} or {last}" if others else last
    kinds = {key: experiment.stages[key].system.kind for key in experiment.order}
    fitting = [key for key, found in kinds.items() if found in wanted]
    if not name:
        if not fitting:
            raise ConfigError(f"{config_path}: no stage of the config trains a {kind}.")
        return fitting[-1]
    if name not in kinds:
        raise ConfigError(
            f"{config_path}: there is no stage {name!r}{nearest(name, fitting)}"
        )
    if kinds[name] not in wanted:
        raise ConfigError(
            f"{config_path}: stage {name!r} trains a {kinds[name]}, but a {kind} is "
            f"needed{nearest(name, fitting)}"
        )
    return name


def restore(
    experiment: ExperimentConfig, name: str, workdir: Path, mesh: Mesh
) -> Trained:
    """Read the newest checkpoint of a stage.

    Args:
        experiment: The experiment.
        name: Of the stage.
        workdir: Of the run.
        mesh: Where to put the parameters.

    Raises:
        UserError: There is no checkpoint (the message says how to make one), or it was
            made with another config.
    """
    stage = experiment.stages[name]
    system = stage.system
    directory = workdir / name
    if not checkpoints.steps(directory / "checkpoints"):
        raise UserError(
            f"stage {name!r} has no checkpoint in {directory}; train it first: "
            f"python -m unitoken_jax.train --config FILE --workdir "
            f"{shlex.quote(str(workdir))}"
        )
    shapes = registry.abstract_params(system)
    wanted = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    found = checkpoints.parameter_shapes(directory)
    if problems := checkpoints.describe_differences(found, wanted):
        raise UserError(
            f"the checkpoint in {directory} was made with another config: {problems}. "
            "Give the config it was trained with."
        )
    places = rules.shardings(registry.logical_axes(system), shapes, mesh)
    params, step = checkpoints.restore_params(
        directory, shardings=places, ema=bool(stage.train.ema)
    )
    log.info("%s: step %d of stage %s", system.kind, step, name)
    return Trained(system, params, stage.data)


def _sampler(system: System) -> type[Sampler]:
    """Return the class that draws with a model."""
    assert system.sampler is not None
    found: type[Sampler] = resolve(system.sampler)
    return found


def _kinds(
    experiment: ExperimentConfig, fits: Callable[[System], bool]
) -> tuple[str, ...]:
    """Return the kinds of model that fit, of all kinds that there are."""
    trained = (experiment.stages[name].system for name in experiment.order)
    kinds = [each.kind for each in (*_default_systems(), *trained) if fits(each)]
    return tuple(dict.fromkeys(kinds))


def _default_systems() -> Iterator[System]:
    """Yield systems of all kinds of model whose config has defaults."""
    for kind in registry.KINDS:
        try:
            yield registry.build({"kind": kind})
        except UserError:
            continue
