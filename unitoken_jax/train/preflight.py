"""Every check of an experiment against itself, its models and its data, in one place.

`check` refuses at once, before anything is written or compiled, what would only be
noticed when a later stage begins. Each refusal names the field that has to change.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from data_pipelines.config import DataConfig
from data_pipelines.elements import CodeSpec
from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.images.pairs import ImagesConfig, PairsConfig
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitoken.rows import SequencesConfig
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.checkpoint.manager import missing_checkpoint, went_back
from unitoken_jax.errors import ConfigError, FailedError, UserError, nearest
from unitoken_jax.models import registry
from unitoken_jax.models.system import Params, System
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.config import ExperimentConfig, StageConfig
from unitoken_jax.train.update.adversarial import (
    BACKBONE,
    DiscriminatorTrainer,
    make_discriminator,
)
from unitoken_jax.train.update.optimizer import make_optimizer

log = logging.getLogger(__name__)

_ROW_AXES = ("slice", "data", "fsdp")  # mesh axes that share the rows of a batch


def check_data(experiment: ExperimentConfig) -> None:
    """Refuse data that does not suit the model, as far as the config says.

    Args:
        experiment: its stages.

    Raises:
        ConfigError: naming the field.
    """
    for name, stage in experiment.stages.items():
        config_path = f"config.stages.{name}"
        _check_kind(stage.system, stage.data.kind, config_path)
        _check_data(stage.system, stage.data, config_path)
        _check_source(stage, config_path)


def check_all_is_read(experiment: ExperimentConfig, *, begins: bool) -> None:
    """Refuse fields that are set and change nothing; warn of them in a run that is on.

    Args:
        experiment: its stages, checked by `check_data`.
        begins: whether it is a new run.

    Raises:
        ConfigError: naming the first such field.
    """
    for name, stage in experiment.stages.items():
        for fault in _unread(stage.system, stage.data, f"config.stages.{name}"):
            if begins:
                raise ConfigError(fault)
            log.warning("%s", fault)


def check_models(
    experiment: ExperimentConfig,
    abstract_params: Callable[[System], Params] = registry.abstract_params,
    logical_axes: Callable[[System], Params] = registry.logical_axes,
) -> None:
    """Refuse at once what would only be noticed when a later stage begins.

    Args:
        experiment: the stages.
        abstract_params: of a model, for who has found them before.
        logical_axes: likewise, the names of the axes of its parameters.

    Raises:
        UserError: a model or optimizer that cannot be built, or a stage that starts
            from what no earlier stage trains.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in experiment.order:
        stage, config_path = experiment.stages[name], f"config.stages.{name}"
        system = stage.system
        check_microbatches(stage, system, config_path)
        check_discriminator(stage, system, config_path)
        params = flatten(
            registry.check_shapes(system, f"{config_path}.model", abstract_params)
        )
        own = {path: leaf.shape for path, leaf in params.items()}
        rule = f"{config_path}.optimizer"
        named = stage.optimizer.needs_axes
        axes = flatten(logical_axes(system)) if named else None
        make_optimizer(stage.optimizer, own, stage.train.steps, rule, axes)
        for source in stages_needed(experiment, stage):
            if source not in shapes:
                raise UserError(
                    f"{config_path} starts from {source!r}, which does not come "
                    f"before it in config.order{nearest(source, shapes)}"
                )
        for ours, source in stage.init.items():
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


def stages_needed(experiment: ExperimentConfig, stage: StageConfig) -> list[str]:
    """Return the stages that a stage starts from, each once."""
    starts = [warm_start.part(source)[0] for source in stage.init.values()]
    needed = [start for start in starts if start in experiment.stages]
    needed += [stage.codes.stage] if stage.codes else []
    return list(dict.fromkeys(needed))


def check_vocabulary(
    system: System, vocabulary: ImageTextVocabulary, config_path: str
) -> None:
    """Refuse a model that numbers ids otherwise than the data set's tokenizer."""
    _check_equal(
        system, system.data.vocabulary, vocabulary, config_path, "tokenizer.json"
    )


def check_codes(system: System, codes: CodeSpec | None, config_path: str) -> None:
    """Refuse a model of images of other codes than the data set's."""
    if codes is not None:
        _check_equal(system, system.data.codes, codes, f"{config_path}.model")


def _check_equal(
    system: System,
    fields: Mapping[str, str],
    found: object,
    config_path: str,
    file: str = "",
) -> None:
    """Refuse fields of a model's config that are not what the data set says.

    Args:
        system: the model.
        fields: a field of its config → the attribute of `found` that it equals.
        found: says something of the data set, or None of what it does not know.
        config_path: where the model's config stands.
        file: of the data set, which says it.
    """
    where = f"data set's {file}" if file else "data set"
    wrong = [
        f"{config_path}.{name} is {system.value(name)}, the {where} has {value}"
        for name, attribute in fields.items()
        if (value := getattr(found, attribute, None)) is not None
        and system.value(name) != value
    ]
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}. Set the config to the data set's.")


def _check_kind(system: System, kind: str, config_path: str) -> None:
    """Refuse a kind of data whose arrays the model's loss does not read."""
    kinds = system.data.kinds
    if kind not in kinds:
        raise ConfigError(
            f"{config_path}.data.kind is {kind!r}, but this {system.kind} learns from "
            f"{' or '.join(map(repr, kinds))}; set it to that."
        )


def _check_data(system: System, data: DataConfig, config_path: str) -> None:
    """Refuse data that does not suit the model, as far as the config says."""
    field = system.data.text_length
    if (
        field is not None
        and isinstance(data, PairsConfig)
        and data.text_length > system.value(field)
    ):
        raise ConfigError(
            f"{config_path}.data.text_length is {data.text_length}, but "
            f"{config_path}.model.{field} is {system.value(field)}, the longest text "
            "of the tower; lower the one or raise the other."
        )
    if isinstance(data, SequencesConfig):
        _check_sequences(system, data, config_path)
    _check_size(system, data, config_path)


def _check_size(system: System, data: DataConfig, config_path: str) -> None:
    """Refuse pictures of sizes that a tokenizer or a tower does not see."""
    size, needs = data.image_size, system.data
    # A tower cuts off what is left beside its last patch, as published.
    if needs.patch is not None and size < system.value(needs.patch):
        raise ConfigError(
            f"{config_path}.data.image_size is {size}, but "
            f"{config_path}.model.{needs.patch} is {system.value(needs.patch)}; one "
            "patch at least must fit."
        )
    if size % needs.pixels_per_code:
        raise ConfigError(
            f"{config_path}.data.image_size is {size}, but must be a multiple of "
            f"{needs.pixels_per_code}, the pixels along a code of {config_path}.model."
        )


def _check_source(stage: StageConfig, config_path: str) -> None:
    """Refuse codes that no batch would hold."""
    data = stage.data
    if stage.codes is None:
        return
    if isinstance(data, ImagesConfig | PairsConfig):
        raise ConfigError(
            f"{config_path}.codes: data of kind {data.kind!r} holds no codes; leave "
            "it out."
        )
    if data.directory is not None:
        raise ConfigError(
            f"{config_path}.codes: the data would be that of "
            f"{config_path}.data.directory, whose own "
            "codes stand in it; leave out the one or the other."
        )


def _check_sequences(system: System, data: SequencesConfig, config_path: str) -> None:
    """Refuse packed rows that show pictures otherwise than the model sees them."""
    tower, undrawable = system.data.tower, system.data.undrawable
    vision = system.value(tower) if tower else None
    encoding, shown = data.layout.encoding, data.shows_views
    if shown and vision is None:
        raise ConfigError(
            f"{config_path}.model.{tower} is None, but "
            f"{config_path}.data.layout.encoding is {encoding!r}, whose continuous "
            "features no tower would give; set the encoding to 'discrete', or give "
            "the model a tower."
        )
    if shown and data.row_views < 1:
        raise ConfigError(
            f"{config_path}.data.row_views is {data.row_views}, but "
            f"{config_path}.data.layout.encoding is {encoding!r}, whose rows show "
            "pictures; set row_views to 1 or more."
        )
    if vision is not None and not shown:
        log.warning(
            "%s.model.%s is a tower that sees nothing, as %s.data.layout.encoding "
            "is %r: weight decay alone moves it.",
            *(config_path, tower, config_path, encoding),
        )
    # Another size of views is fine: the tower interpolates its positions.
    if vision is not None and shown and vision.patch != data.views.patch:
        raise ConfigError(
            f"{config_path}.data.views.patch is {data.views.patch}, but "
            f"{config_path}.model.{tower}.patch is {vision.patch}, so that slots "
            "would name other features than the tower gives; set the data's to "
            f"{vision.patch}."
        )
    if undrawable and system.value(undrawable) and data.mixture.draw > 0:
        raise ConfigError(
            f"{config_path}.model.{undrawable} gives image codes no probability, but "
            f"{config_path}.data.mixture.draw is {data.mixture.draw:g}, so that the "
            "model would learn to draw what it cannot; set the one to False or the "
            "other to 0."
        )


def _unread(system: System, data: DataConfig, config_path: str) -> Iterator[str]:
    """Yield what is wrong with fields that are set and that others leave unread."""
    for field, why in system.unread.items():
        yield (
            f"{config_path}.model.{field} is {system.value(field)!r}, but {why}, so "
            "that it changes nothing; leave it out."
        )
    if not isinstance(data, SequencesConfig) or data.shows_views:
        return
    if data.views != ViewsConfig():
        yield (
            f"{config_path}.data.views: {config_path}.data.layout.encoding is "
            f"{data.layout.encoding!r}, whose rows show no views; leave it out."
        )


def check_microbatches(stage: StageConfig, system: System, config_path: str) -> None:
    """Refuse to part a batch whose elements the loss compares with each other.

    Args:
        stage: the stage's config.
        system: the model.
        config_path: dotted path of the config, for messages.

    Raises:
        ConfigError: naming the field.
    """
    if system.whole_batch and stage.train.microbatches > 1:
        raise ConfigError(
            f"{config_path}.train.microbatches: the loss of this {system.kind} "
            "compares the elements of the whole batch with each other; set it to 1."
        )


def check_discriminator(
    stage: StageConfig, system: System, config_path: str
) -> DiscriminatorTrainer | None:
    """Lay out a stage's discriminator and check the frozen networks it names.

    Args:
        stage: the stage's config.
        system: the model.
        config_path: dotted path of the config, for messages.

    Raises:
        ConfigError: a frozen network is not named or not wanted, or the discriminator
            does not fit the system.
    """
    wanted = set(system.frozen_models)
    config = stage.discriminator
    if config is not None and config.frozen:
        wanted.add(BACKBONE)
    for name in sorted(wanted - stage.frozen_models.keys()):
        raise ConfigError(
            f"{config_path}.frozen_models: the training consults a frozen network "
            f"{name!r}; "
            "name its weights there, {'" + name + "': {'format': …, 'path': …}}."
        )
    for name in sorted(stage.frozen_models.keys() - wanted):
        raise ConfigError(
            f"{config_path}.frozen_models.{name}: nothing consults "
            f"it{nearest(name, wanted)}"
        )
    if config is None:
        return None
    if system.generator_loss is None:
        raise ConfigError(
            f"{config_path}.discriminator: this {system.kind} draws nothing that "
            "could be judged; remove it."
        )
    if stage.train.microbatches > 1:
        raise ConfigError(
            f"{config_path}.train.microbatches: the discriminator's weight is that of "
            "the whole batch; set it to 1."
        )
    return make_discriminator(config, stage.train.steps, f"{config_path}.discriminator")


def check_rows(stage: StageConfig, mesh: Mesh, config_path: str) -> None:
    """Refuse a batch that the devices of a mesh cannot share equally."""
    shards = int(np.prod([mesh.shape[axis] for axis in _ROW_AXES]))
    rows = stage.train.batch // stage.train.microbatches
    if rows % shards:
        raise ConfigError(
            f"{config_path}.train.batch: {stage.train.batch} in "
            f"{stage.train.microbatches} microbatches are {rows} elements at a time, "
            f"which {shards} devices cannot share equally; choose a multiple of "
            f"{shards}."
        )


def check_resume(
    stage: StageConfig,
    system: System,
    directory: Path,
    config_path: str,
    restore_step: int | None = None,
) -> None:
    """Refuse what a stage has trained so far, if the config has no place for it.

    What cannot be read is left to the restore, which knows older checkpoints.

    Args:
        stage: the stage's config.
        system: the model.
        directory: of the stage; it may be missing.
        config_path: dotted path of `stage` in the config, for messages.
        restore_step: the checkpoint that will be gone back to.

    Raises:
        UserError: it has more steps than the stage is to have, or other parameters, or
            there is nothing to go back to.
    """
    found = checkpoints.steps(directory / "checkpoints")
    if restore_step is not None and restore_step not in found:
        _check_way_back(stage, directory / "checkpoints", restore_step)
    if not found:
        return
    if restore_step is None or restore_step in found:
        newest = max(found) if restore_step is None else restore_step
        check_step(stage, newest, directory, config_path)
    try:
        saved = checkpoints.parameter_shapes(directory)
    except (UserError, OSError):
        return
    shapes = flatten(registry.check_shapes(system, f"{config_path}.model"))
    wanted = {path: leaf.shape for path, leaf in shapes.items()}
    if problems := checkpoints.describe_differences(saved, wanted):
        raise ConfigError(
            f"{config_path}.model: the checkpoint in {directory} was made with "
            f"another config: {problems}. Set the config to that, or use another "
            "--workdir."
        )


def _check_way_back(stage: StageConfig, checkpoint_dir: Path, step: int) -> None:
    """Refuse to go back to what is not there, as far as this host can tell."""
    is_elsewhere = stage.checkpoint.local.directory or went_back(checkpoint_dir) == step
    if not is_elsewhere:
        raise missing_checkpoint(step, checkpoint_dir)


def check_step(
    stage: StageConfig, step: int, directory: Path, config_path: str
) -> None:
    """Refuse parameters that have been trained for longer than the stage is to be."""
    steps = stage.train.steps
    if step > steps:
        raise ConfigError(
            f"{config_path}.train.steps: {steps}, but the checkpoint in {directory} "
            f"is of step {step}; set it to {step} or more, or use another --workdir."
        )


def check_streams(digest: str, config_path: str) -> None:
    """Refuse processes that would feed rows of different streams into one batch."""
    words = [int(digest[i : i + 4], 16) for i in range(0, len(digest), 4)]
    said = processes.gather(words)
    others = np.flatnonzero((said != said[0]).any(1)).tolist()
    if others:
        raise FailedError(
            f"{config_path}.data: process {', '.join(map(str, others))} has other "
            "samples, or in another order, than process 0. Either they see different "
            "data, or a record could not be read by one of them, whose output names "
            "it; compare the data sets and run again."
        )
