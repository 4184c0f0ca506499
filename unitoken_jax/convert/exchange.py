"""`load`, `save` and `convert`: weights of any format, tensor by tensor."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util
from tqdm import tqdm

from unitoken_jax.convert import vqgan
from unitoken_jax.convert.checkpoints import (
    CheckpointReader,
    read_config,
    write_checkpoint,
)
from unitoken_jax.convert.configs.vqgan import write_vq_config
from unitoken_jax.convert.formats import FORMATS, JAX, Format, format_of, matching
from unitoken_jax.convert.networks import config_of, network_of, node_of
from unitoken_jax.convert.readers import (
    CastReader,
    PublishedReader,
    SubtreeReader,
    WatchedReader,
)
from unitoken_jax.convert.sources import ArraySource, PartSource, Source
from unitoken_jax.convert.table import (
    Reader,
    Rule,
    Spec,
    Table,
    TreeReader,
    WeightsError,
    check_initials,
    export_one,
    export_specs,
    import_tensors,
    plan,
)
from unitoken_jax.models.vqgan import VQGANConfig

log = logging.getLogger(__name__)

Where = str | os.PathLike[str]


@dataclass(frozen=True)
class Weights:
    """Parameters that have not been read.

    Attributes:
        config: configuration of the network.
        reader: its parameters.
        published: what their published source said of the model.
    """

    config: Any
    reader: Reader
    published: Mapping[str, Any]

    def part(self, holds: tuple[type, ...]) -> "Weights | None":
        """These weights, or the part of them whose configuration is one of `holds`."""
        if isinstance(self.config, holds):
            return self
        for prefix, config in network_of(self.config).parts(self.config).items():
            if isinstance(config, holds):
                return Weights(
                    config, SubtreeReader(self.reader, prefix), self.published
                )
        return None


def load(
    format: str,
    source: Where | Mapping[str, Any],
    config: Any = None,
    *,
    dtype: Any = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Weights of a format as one of our modules and its parameters.

    Args:
        format: a name of `FORMATS`, or "jax" for our own checkpoints.
        source: a file or folder, or a mapping of name → array.
        config: the network's configuration; None reads what the source says, and with
            nothing said takes the published model's.
        dtype: type of the parameters; None keeps the source's.

    Returns:
        The module, and a nested dict of NumPy arrays: `module.apply({"params": …})`.

    Raises:
        WeightsError: the source is missing, damaged or of another format or model.
    """
    if format == JAX:
        weights = _open_jax(source, config)
        reader = CastReader(weights.reader, dtype) if dtype else weights.reader
        leaves = {name: reader.read(name, ()) for name in reader.specs}
        params = traverse_util.unflatten_dict(leaves, sep="/")
        return network_of(weights.config).module(weights.config), params
    given = config
    kind, opened, config = _open_published(format, source, given)
    network = network_of(config)
    try:
        params = import_tensors(
            kind.table(config),
            opened,
            network.abstract(config),
            network.counts(config),
            dtype=dtype,
        )
    except WeightsError as fault:
        raise _explained(fault, format, opened, given) from fault
    return network.module(config), params


def abstract(format: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """The published network of a format, without its weights.

    Args:
        format: a name of `FORMATS`.

    Returns:
        The module, and a nested dict of shapes and types.

    Raises:
        WeightsError: no such format.
    """
    config = format_of(format).published[0]
    network = network_of(config)
    return network.module(config), network.abstract(config)


def save(
    format: str,
    model: nn.Module,
    params: Mapping[str, Any],
    path: Where,
    *,
    dtype: Any = None,
    published: Mapping[str, Any] | None = None,
    image_tokenizer: tuple[nn.Module, Mapping[str, Any]] | None = None,
) -> None:
    """Write parameters of one of our modules in a format.

    Args:
        format: a name of `FORMATS`, or "jax". A format that holds a part of the model
            (`chameleon-hf` of a UniToken) gets that part.
        model: the module; its `config` says what the parameters are.
        params: nested dict of arrays.
        path: where to; it must not exist. The ending chooses the kind of file, see
            `sinks.write_weights`.
        dtype: type of the tensors; None keeps the parameters'.
        published: what an earlier source's configuration said (a vocabulary, say).
        image_tokenizer: VQGAN and its parameters, which `chameleon-hf` holds too.

    Raises:
        WeightsError: the path is taken, the disk is full, or the format cannot hold
            this model.
    """
    config = getattr(model, "config", None)
    weights = Weights(config, TreeReader(params), published or {})
    tokenizer = None
    if image_tokenizer is not None:
        vq_model, vq_params = image_tokenizer
        tokenizer = Weights(
            getattr(vq_model, "config", None), TreeReader(vq_params), {}
        )
    _write(format, weights, Path(path), dtype, tokenizer)


def convert(
    source_format: str,
    target_format: str,
    source: Where,
    path: Where,
    *,
    config: Any = None,
    dtype: Any = None,
    image_tokenizer: Where | None = None,
) -> None:
    """Rewrite weights of one format in another; memory holds a few tensors.

    Args:
        source_format: a name of `FORMATS`, or "jax".
        target_format: likewise.
        source: a file or folder.
        path: where to; it must not exist.
        config: the network's configuration, or a published one as a mapping; None reads
            what the source says.
        dtype: type of the tensors; None keeps the source's.
        image_tokenizer: a `vqgan` or `jax` source that `chameleon-hf` holds too.

    Raises:
        WeightsError: see `load` and `save`.
    """
    weights = open_weights(source_format, source, config)
    tokenizer = None
    if image_tokenizer is not None:
        is_ours = (Path(image_tokenizer) / "checkpoints").is_dir()
        tokenizer = open_weights(JAX if is_ours else "vqgan", image_tokenizer)
    _write(target_format, weights, Path(path), dtype, tokenizer)


def open_weights(
    format: str, source: Where | Mapping[str, Any], config: Any = None
) -> Weights:
    """Open a source as our parameters, read slice by slice when asked for."""
    if format == JAX:
        return _open_jax(source, config)
    given = config
    kind, opened, config = _open_published(format, source, given)
    network = network_of(config)
    try:
        reader = PublishedReader(
            kind.table(config),
            opened,
            network.abstract(config),
            network.counts(config),
        )
    except WeightsError as fault:
        raise _explained(fault, format, opened, given) from fault
    return Weights(config, reader, opened.config)


def _open_jax(source: Where | Mapping[str, Any], config: Any) -> Weights:
    if isinstance(source, Mapping):
        if config is None:
            raise WeightsError(
                "a mapping of parameters does not say which model it is; give config"
            )
        return Weights(config, TreeReader(source), {})
    path = Path(source)
    described = read_config(path)
    if config is None:
        config = config_of(described["model"], f"{path}: model")
    return Weights(config, CheckpointReader(path), described.get("published") or {})


def _open_published(
    format: str, source: Where | Mapping[str, Any], config: Any
) -> tuple[Format, Source, Any]:
    kind = format_of(format)
    if isinstance(source, Mapping):
        opened: Source = ArraySource(source)
    else:
        opened = kind.open(Path(source))
    if config is None:
        config = kind.refine(kind.read_config(opened.config), opened)
    elif isinstance(config, Mapping):
        opened.config.update(config)
        config = kind.refine(kind.read_config(opened.config), opened)
    if not isinstance(config, kind.holds):
        raise WeightsError(
            f"{format} holds a {_names(kind.holds)}, and the configuration given is of"
            f" a {_names((type(config),))}"
        )
    return kind, _selected(kind, opened, config), config


def _selected(kind: Format, source: Source, config: Any) -> Source:
    """The part of a larger file that the format is about, if it is a part."""
    rules = (rule for rule in kind.table(config) if isinstance(rule, Rule))
    key = next(rule.key for rule in rules if "{" not in rule.key)
    if key in source:
        return source
    for prefix in kind.prefixes:
        if prefix + key in source:
            part = PartSource(source, prefix)
            log.info("%s: %d tensors, %s*", source.where, len(part), prefix)
            return part
    return source


def _write(
    format: str, weights: Weights, path: Path, dtype: Any, tokenizer: Weights | None
) -> None:
    if dtype is not None:
        weights = replace(weights, reader=CastReader(weights.reader, dtype))
    if tokenizer is not None and format != _WITH_TOKENIZER:
        raise WeightsError(
            f"{format} has no image tokenizer in it; only {_WITH_TOKENIZER} has. Write"
            " the tokenizer by itself, in the format vqgan"
        )
    if format == JAX:
        specs = weights.reader.specs
        with _progress(specs) as shown:
            reader = WatchedReader(weights.reader, shown.update)
            node = node_of(weights.config)
            write_checkpoint(path, reader, node, weights.published)
        return
    kind = format_of(format)
    part = weights.part(kind.holds)
    if part is None:
        raise WeightsError(
            f"{format} holds a {_names(kind.holds)}, and the source is a"
            f" {_names((type(weights.config),))}; it can be written as"
            f" {', '.join(_fitting(weights.config))}"
        )
    exported = _exported(kind.table(part.config), part)
    values = dict(kind.write_config(part.config, weights.published))
    if tokenizer is not None:
        exported |= _exported_tokenizer(tokenizer)
        values["vq_config"] = write_vq_config(tokenizer.config)
    specs = {key: spec for key, (spec, _) in exported.items()}
    with _progress(specs) as shown:

        def read(key: str) -> np.ndarray:
            spec, give = exported[key]
            shown.update(spec.size)
            return give()

        kind.write(path, specs, read, values)


_WITH_TOKENIZER = "chameleon-hf"
_Exported = dict[str, tuple[Spec, Callable[[], np.ndarray]]]


def _exported(table: Table, weights: Weights) -> _Exported:
    """Published name → shape and type, and how to get the numbers."""
    check_initials(table, weights.reader)
    specs = weights.reader.specs
    assignments = plan(table, specs, network_of(weights.config).counts(weights.config))
    return {
        key: (spec, partial(export_one, assignments[key], weights.reader))
        for key, spec in export_specs(assignments, specs).items()
    }


def _exported_tokenizer(tokenizer: Weights) -> _Exported:
    """The half of the image tokenizer that `transformers`' Chameleon has."""
    if not isinstance(tokenizer.config, VQGANConfig):
        raise WeightsError(
            f"the image tokenizer is a {_names((type(tokenizer.config),))}; give a"
            " VQGAN"
        )
    exported = _exported(vqgan.table(tokenizer.config), tokenizer)
    return {
        f"model.vqmodel.{key}": entry
        for key, entry in exported.items()
        if not key.startswith("decoder.")
    }


def _progress(specs: Mapping[str, Spec]) -> tqdm:
    """Bytes done, rate and time left, on a terminal."""
    total = sum(spec.size for spec in specs.values())
    return tqdm(total=total, unit="B", unit_scale=True, disable=None)


def _explained(
    fault: WeightsError, format: str, source: Source, given: Any
) -> WeightsError:
    """The fault, with what may be behind it."""
    hint = ""
    likely = matching(source)
    if likely and format not in likely:
        hint = f" Its names look like {' or '.join(likely)}."
    elif given is None and not source.config:
        hint = (
            " The source does not describe its model, so that the published one was"
            " assumed; give a config."
        )
    elif len(likely) > 1:
        others = " or ".join(name for name in likely if name != format)
        hint = f" Its names would also be those of {others}."
    return WeightsError(f"{source.where} as {format}: {fault}{hint}")


def _fitting(config: Any) -> list[str]:
    return [JAX] + [
        name for name, kind in FORMATS.items() if isinstance(config, kind.holds)
    ]


def _names(configs: tuple[type, ...]) -> str:
    return " or ".join(one.__name__.removesuffix("Config") for one in configs)
