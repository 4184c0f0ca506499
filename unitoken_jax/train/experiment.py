"""An experiment from its config file, or from the run that it was: all of it typed.

`build_experiment` is where a config becomes dataclasses; nothing builds it again.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from unitoken_jax.config import (
    ConfigError,
    build,
    nearest,
    overrides,
    plain,
    set_fields,
)
from unitoken_jax.files import read_json, write_json
from unitoken_jax.renamed import translate
from unitoken_jax.train.config import ExperimentConfig, StageConfig

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The file of a run's folder that holds its config."""

_TAKEN = (  # names in a run's folder that are no stages
    *(CONFIG, "codes", "evaluation", "evaluation.json", "log.txt", "report.html"),
)


def write_config(
    workdir: Path, config: Mapping[str, object] | ExperimentConfig
) -> None:
    """Keep a run's config in its folder, for commands that are given the folder alone.

    Args:
        workdir: of the run; it exists.
        config: of the whole experiment or the lone stage, as written, with its
            overrides.
    """
    write_json(workdir / CONFIG, plain(config))


def experiment_of(
    config: Mapping[str, object] | None, workdir: Path
) -> ExperimentConfig:
    """Return the experiment of a config, or without one that of a run.

    What the command line sets of the config is set in the run's own as well.

    Args:
        config: of a config flag, or None.
        workdir: of the run.

    Raises:
        ConfigError: as `build_experiment`, or the run does not say what its config is.
    """
    if config is not None:
        return build_experiment(config)
    path = workdir / CONFIG
    try:
        found = read_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{workdir} holds no {CONFIG}, in which a run keeps its config: there is "
            "no run, or an old one. Name a file: --config=configs/FILE.py."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}); name a file: --config=configs/FILE.py."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} holds no config; name a file: --config=configs/FILE.py."
        )
    found, renamed = translate(plain(found))
    if renamed:
        log.info("%s: read with today's names: %s", path, "; ".join(renamed))
    set_fields(found, overrides())
    return build_experiment(found)


def build_experiment(node: object) -> ExperimentConfig:
    """Convert a config, of an experiment or of a lone stage, to an experiment.

    A stage (it has a `model`) becomes an experiment of this one, named by its `name`;
    what belongs to an experiment (`data_dir`, `evaluation`, …) stands beside the
    stage's fields.

    Raises:
        ConfigError: as `build`, or stages and order do not agree.
    """
    fields = dict(plain(node))
    if "model" in fields and "stages" in fields:
        raise ConfigError(
            "config.model: a chain has no model of its own, its stages have: "
            "config.stages.NAME.model."
        )
    if "model" in fields:
        shared = {field.name for field in dataclasses.fields(ExperimentConfig)} - {
            "name"
        }
        beside = {key: fields.pop(key) for key in shared & fields.keys()}
        stage = build(StageConfig, fields, "config")
        # The paths of a lone stage's fields have no `stages.NAME` in them.
        return build(
            ExperimentConfig,
            {"name": stage.name, "order": (stage.name,), "stages": {stage.name: stage}}
            | beside,
        )
    stages = fields.get("stages")
    order = fields.get("order", ())
    if isinstance(stages, Mapping) and isinstance(order, tuple):
        fields["stages"] = {
            key: {"name": key, **stage} if isinstance(stage, Mapping) else stage
            for key, stage in stages.items()
        }
        for name in order:
            if name not in stages:
                raise ConfigError(
                    f"config.order: there is no stage {name!r}"
                    f"{nearest(str(name), stages)}"
                )
        for name in stages:
            if name not in order:
                raise ConfigError(
                    f"config.stages.{name}: not named in config.order"
                    f"{nearest(name, map(str, order))}"
                )
    experiment = build(ExperimentConfig, fields)
    for key, stage in experiment.stages.items():
        if key in _TAKEN:
            raise ConfigError(
                f"config.stages.{key}: a run keeps something else under this name; "
                "call the stage otherwise."
            )
        if stage.name != key:
            raise ConfigError(
                f"config.stages.{key}.name: {stage.name!r} is not the stage's name."
            )
    return experiment
