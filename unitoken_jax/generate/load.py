"""From a run's directory to a trained model that draws and answers."""

import dataclasses
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from jax.sharding import Mesh

from data_pipelines.config import build_data
from data_pipelines.errors import DataError
from data_pipelines.storage.integrity import check_tokenizer
from unitoken_jax import config as configs
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.config import ConfigError, UserError, nearest
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
    workdir: Path, chain: ExperimentConfig | None = None, **changes: object
) -> Sampler:
    """Return a trained model with its tokenizer, ready to draw and answer.

    Args:
        workdir: Of a run.
        chain: Its experiment, whose `generation` group says which stages and how; None
            is the one that the run keeps.
        **changes: Fields of `GenerationConfig` to set; None leaves one as it is.

    Raises:
        UserError: Something is missing or does not fit, in a sentence.
    """
    chain = chain or experiment_of(None, workdir)
    given = {key: value for key, value in changes.items() if value is not None}
    fields = dict(chain.generation) | given
    config = configs.build(GenerationConfig, fields, "config.generation")
    mesh = make_mesh(config.mesh)
    name = find_sampled_stage(chain, config)
    check_fields(config, _system(chain, name))
    source = find_tokenizer_stage(chain, config, name)
    model, tokenizer = (
        restore(chain, stage, workdir, mesh) for stage in (name, source)
    )
    data_dir = Path(model.data.directory or chain.data_dir)
    try:
        check_tokenizer(data_dir, "tokenizer.json")
        sampler = _sampler(model.system)
        return sampler.build(model, tokenizer, data_dir, config, mesh)
    except DataError as error:
        raise UserError(f"config.stages.{name}.data: {error}.") from error


def check(chain: ExperimentConfig) -> None:
    """Refuse a `generation` group that is wrong or that its model does not read.

    Raises:
        ConfigError: It is; the message names the field.
    """
    config = configs.build(GenerationConfig, chain.generation, "config.generation")
    if config.model or any(_system(chain, name).sampler for name in chain.order):
        name = find_sampled_stage(chain, config)
        check_fields(config, _system(chain, name))


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


def find_sampled_stage(chain: ExperimentConfig, config: GenerationConfig) -> str:
    """Return the stage whose model draws and answers.

    Raises:
        ConfigError: There is none.
    """
    kinds = _kinds(chain, lambda system: system.sampler is not None)
    return find_stage(chain, config.model, kinds, "config.generation.model")


def find_tokenizer_stage(
    chain: ExperimentConfig, config: GenerationConfig, model: str
) -> str:
    """Return the stage of the image tokenizer whose codes a model speaks.

    Args:
        chain: The experiment.
        config: May name it.
        model: The stage of the model.

    Raises:
        ConfigError: There is none.
    """
    codes = chain.stages[model].codes
    source = config.tokenizer or (codes.stage if codes else "")
    in_codebooks = bool(_system(chain, model).data.codes)

    def fits(system: System) -> bool:
        tokenizer = system.image_tokenizer
        if tokenizer is None:
            return False
        return (tokenizer.num_codebooks is not None) == in_codebooks

    kinds = _kinds(chain, fits)
    return find_stage(chain, source, kinds, "config.generation.tokenizer")


def find_stage(
    chain: ExperimentConfig, name: str, kind: str | tuple[str, ...], config_path: str
) -> str:
    """Return the stage `name`, or the last one of a kind of model if it is ''.

    Args:
        chain: The experiment.
        name: Of a stage, or ''.
        kind: Of model, such as 'unitoken', or several that will do.
        config_path: Dotted path of the field that names it, for messages.

    Raises:
        ConfigError: There is no such stage, or it trains another kind of model.
    """
    wanted = (kind,) if isinstance(kind, str) else kind
    *others, last = wanted
    kind = f"{', '.join(others)} or {last}" if others else last
    kinds = {key: chain.stages[key].model.get("kind") for key in chain.order}
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


def restore(chain: ExperimentConfig, name: str, workdir: Path, mesh: Mesh) -> Trained:
    """Read the newest checkpoint of a stage.

    Args:
        chain: The experiment.
        name: Of the stage.
        workdir: Of the run.
        mesh: Where to put the parameters.

    Raises:
        UserError: There is no checkpoint (the message says how to make one), or it was
            made with another config.
    """
    job = chain.stages[name]
    system = _system(chain, name)
    data = build_data(job.data, f"config.stages.{name}.data")
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
        directory, shardings=places, ema=bool(job.train.ema)
    )
    log.info("%s: step %d of stage %s", system.kind, step, name)
    return Trained(system, params, data)


def _system(chain: ExperimentConfig, name: str) -> System:
    return registry.build(chain.stages[name].model, f"config.stages.{name}.model")


def _sampler(system: System) -> type[Sampler]:
    """Return the class that draws with a model."""
    assert system.sampler is not None
    found: type[Sampler] = resolve(system.sampler)
    return found


def _kinds(chain: ExperimentConfig, fits: Callable[[System], bool]) -> tuple[str, ...]:
    """Return the kinds of model that fit, of all kinds that there are."""
    trained = (_system(chain, name) for name in chain.order)
    kinds = [each.kind for each in (*_default_systems(), *trained) if fits(each)]
    return tuple(dict.fromkeys(kinds))


def _default_systems() -> Iterator[System]:
    """Yield systems of all kinds of model whose config has defaults."""
    for kind in registry.KINDS:
        try:
            yield registry.build({"kind": kind})
        except UserError:
            continue
