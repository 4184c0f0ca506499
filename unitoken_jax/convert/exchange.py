"""`load`, `save` and `convert`: weights of any format, tensor by tensor."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util
from numpy.typing import DTypeLike
from tqdm import tqdm

from unitoken_jax.convert import fields
from unitoken_jax.convert.checkpoints import write_checkpoint
from unitoken_jax.convert.files.readers import CastReader, WatchedReader
from unitoken_jax.convert.files.sinks import refuse_existing
from unitoken_jax.convert.formats import (
    FORMATS,
    JAX,
    Format,
    ImageTokenizer,
    format_of,
    formats_of,
    network_of,
    node_of,
)
from unitoken_jax.convert.table import (
    Table,
    check_initials,
    export_one,
    export_specs,
    plan,
)
from unitoken_jax.convert.tensors import Spec, WeightsError
from unitoken_jax.convert.vocabulary import FILE as TOKENIZER
from unitoken_jax.convert.vocabulary import (
    Vocabulary,
    fitting_vocabulary,
    read_vocabulary,
)
from unitoken_jax.convert.weights import (
    Arrays,
    Weights,
    Where,
    held,
    names_of,
    open_published,
    open_weights,
)

log = logging.getLogger(__name__)

_Exported = dict[str, tuple[Spec, Callable[[], np.ndarray]]]


def load(
    format: str | Format,
    source: Where | Arrays,
    config: object = None,
    *,
    dtype: DTypeLike | None = None,
    weights: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Weights of a format as one of our modules and its parameters.

    Args:
        format: a name of `FORMATS`, the entry point of another format or the format
            itself; or "jax" for our own checkpoints.
        source: a file or folder, or a mapping of name → array.
        config: the network's configuration; None reads what the source says, and with
            nothing said takes the published model's.
        dtype: type of the parameters; None keeps the source's.
        weights: which set of a source that holds several ("ema").

    Returns:
        The module, and a nested dict of NumPy arrays: `module.apply({"params": …})`.

    Raises:
        WeightsError: the source is missing, damaged or of another format or model.
    """
    if format == JAX:
        opened = open_weights(format, source, config, weights)
        reader = CastReader(opened.reader, dtype) if dtype else opened.reader
        leaves = {name: reader.read(name, ()) for name in reader.specs}
        params = traverse_util.unflatten_dict(leaves, sep="/")
        return network_of(opened.config).module(opened.config), params
    published = open_published(format, source, config, weights)
    params = published.params(dtype)
    return network_of(published.config).module(published.config), params


def abstract(format: str | Format) -> tuple[nn.Module, Mapping[str, object]]:
    """The published network of a format, without its weights.

    Args:
        format: a name of `FORMATS`, an entry point or a format.

    Returns:
        The module, and a nested dict of shapes and types.

    Raises:
        WeightsError: no such format.
    """
    config = format_of(format).published[0]
    network = network_of(config)
    return network.module(config), network.abstract(config)


def save(
    format: str | Format,
    model: nn.Module,
    params: Mapping[str, object],
    path: Where,
    *,
    dtype: DTypeLike | None = None,
    published: Mapping[str, object] | None = None,
    image_tokenizer: tuple[nn.Module, Mapping[str, object]] | None = None,
    vocabulary: Where | None = None,
    part: str | None = None,
) -> None:
    """Write parameters of one of our modules in a format.

    Args:
        format: a name of `FORMATS`, an entry point or a format, or "jax". A format
            that holds a part of the model (`chameleon-hf` of a UniToken) gets that
            part.
        model: the module; its `config` says what the parameters are.
        params: nested dict of arrays.
        path: where to; it must not exist. The ending chooses the kind of file, see
            `sinks.write_weights`.
        dtype: type of the tensors; None keeps the parameters'.
        published: what an earlier source's configuration said (a vocabulary, say).
        image_tokenizer: VQGAN and its parameters, which `chameleon-hf` holds too.
        vocabulary: tokenizer.json with the names of the decoder's ids, which
            Chameleon's formats list.
        part: name of the part of the model to write ("vision"); None writes all that
            the format holds.

    Raises:
        WeightsError: the path is taken, the disk is full, or the format cannot hold
            this model.
    """
    weights = held(getattr(model, "config", None), params, published)
    tokenizer = None
    if image_tokenizer is not None:
        network, its_params = image_tokenizer
        tokenizer = held(getattr(network, "config", None), its_params)
    _write(format, _chosen(weights, vocabulary, part), Path(path), dtype, tokenizer)


def convert(
    source_format: str | Format,
    target_format: str | Format,
    source: Where,
    path: Where,
    *,
    config: object = None,
    dtype: DTypeLike | None = None,
    image_tokenizer: Where | None = None,
    weights: str | None = None,
    vocabulary: Where | None = None,
    part: str | None = None,
) -> None:
    """Rewrite weights of one format in another; memory holds a few tensors.

    Args:
        source_format: a name of `FORMATS`, an entry point or a format, or "jax".
        target_format: likewise.
        source: a file or folder.
        path: where to; it must not exist.
        config: the network's configuration, or a published one as a mapping; None reads
            what the source says.
        dtype: type of the tensors; None keeps the source's.
        image_tokenizer: a source that `chameleon-hf` holds too, `jax` or in the format
            of its own files (`vqgan`).
        weights: which set of a source that holds several ("ema").
        vocabulary: see `save`.
        part: see `save`.

    Raises:
        WeightsError: see `load` and `save`.
    """
    refuse_existing(Path(path))
    opened = open_weights(source_format, source, config, weights)
    tokenizer = None
    if image_tokenizer is not None:
        beside = _image_tokenizer_of(target_format)
        is_ours = (Path(image_tokenizer) / "checkpoints").is_dir()
        tokenizer = open_weights(JAX if is_ours else beside.format, image_tokenizer)
    _write(
        target_format, _chosen(opened, vocabulary, part), Path(path), dtype, tokenizer
    )


def _chosen(weights: Weights, vocabulary: Where | None, part: str | None) -> Weights:
    """The weights with the names of a tokenizer.json, or a part of them."""
    if vocabulary is not None:
        weights = replace(weights, vocabulary=read_vocabulary(Path(vocabulary)))
    return weights if part is None else weights.part(part)


def _image_tokenizer_of(name: str | Format) -> ImageTokenizer:
    """The image tokenizer that a format holds.

    Raises:
        WeightsError: it holds none.
    """
    found = None if name == JAX else format_of(name).image_tokenizer
    if found is not None:
        return found
    name = name.name if isinstance(name, Format) else name
    others = {one: format_of(one).image_tokenizer for one in FORMATS}
    known = [one for one, tokenizer in others.items() if tokenizer is not None]
    own = sorted({tokenizer.format for tokenizer in others.values() if tokenizer})
    raise WeightsError(
        f"{name} has no image tokenizer in it; only {' or '.join(known)} has. Write"
        f" the tokenizer by itself, in the format {' or '.join(own)}"
    )


def _write(
    target_format: str | Format,
    weights: Weights,
    path: Path,
    dtype: DTypeLike | None,
    tokenizer: Weights | None,
) -> None:
    refuse_existing(path)
    if dtype is not None:
        weights = replace(weights, reader=CastReader(weights.reader, dtype))
        if tokenizer is not None:
            tokenizer = replace(tokenizer, reader=CastReader(tokenizer.reader, dtype))
    if tokenizer is not None:
        _image_tokenizer_of(target_format)
    if target_format == JAX:
        _write_jax(weights, path)
        return
    kind = format_of(target_format)
    whole, weights = weights, _part_for(kind, weights)
    changes = fields.check(kind.name, weights.config, kind.holdings)
    changes += kind.changes(weights.config)
    vocabulary = _vocabulary_of(kind, whole, weights, tokenizer)
    said = dict(weights.published)
    if vocabulary is not None:
        said |= vocabulary.special
        if kind.names_ids:
            said["vocabulary_map"] = dict(vocabulary.ids)
    exported = _exported(kind.table(weights.config), weights)
    values = dict(kind.write_config(weights.config, said))
    if tokenizer is not None and kind.image_tokenizer is not None:
        exported |= _exported_tokenizer(kind.image_tokenizer, tokenizer)
        described = kind.image_tokenizer.describe(tokenizer.config)
        values[kind.image_tokenizer.field] = described
    _write_files(kind, path, exported, values, vocabulary.files() if vocabulary else {})
    for change in changes:
        log.warning(
            "%s: the released code does not load it as it is: %s.", path, change
        )


def _part_for(kind: Format, weights: Weights) -> Weights:
    """The weights that a format can hold, or the part of them that it can.

    Raises:
        WeightsError: there is none.
    """
    found = weights.held_by(kind.holds)
    if found is None:
        fitting = [JAX, *(one.name for one in formats_of(weights.config))]
        raise WeightsError(
            f"{kind.name} holds a {names_of(kind.holds)}, and the source is a"
            f" {names_of((type(weights.config),))}; it can be written as"
            f" {', '.join(fitting)}"
        )
    return found


def _write_files(
    kind: Format,
    path: Path,
    exported: _Exported,
    values: Mapping[str, object],
    files: Mapping[str, bytes],
) -> None:
    specs = {key: spec for key, (spec, _) in exported.items()}
    with _progress(specs) as shown:

        def read(key: str) -> np.ndarray:
            spec, give = exported[key]
            shown.update(spec.size)
            return give()

        kind.write(path, specs, read, values, files)


def _write_jax(weights: Weights, path: Path) -> None:
    specs = weights.reader.specs
    files = {}
    if weights.vocabulary is not None:
        files = weights.vocabulary.files()
        files = {TOKENIZER: files[TOKENIZER]} if TOKENIZER in files else {}
    with _progress(specs) as shown:
        reader = WatchedReader(weights.reader, shown.update)
        node = node_of(weights.config)
        tokenizer = None
        if weights.vocabulary is not None and Path(weights.vocabulary.where).is_file():
            tokenizer = Path(weights.vocabulary.where)
        write_checkpoint(
            path, reader, node, weights.published, files, tokenizer=tokenizer
        )


def _vocabulary_of(
    kind: Format, whole: Weights, weights: Weights, tokenizer: Weights | None
) -> Vocabulary | None:
    """The names of a decoder's ids, as far as they are known and of use here.

    Args:
        kind: the format that is written.
        whole: all that is known, which may know where the image codes lie.
        weights: the part of it that is written.
        tokenizer: the image tokenizer that goes along.

    Raises:
        WeightsError: they do not fit the decoder or the image tokenizer.
    """
    ids = network_of(weights.config).ids
    if ids is None:
        return None
    if not kind.names_ids:
        return weights.vocabulary
    of_whole = network_of(whole.config).ids
    known = of_whole(whole.config) if of_whole else ids(weights.config)
    codes = None
    if tokenizer is not None and kind.image_tokenizer is not None:
        _check_tokenizer(kind, kind.image_tokenizer, tokenizer)
        codes = kind.image_tokenizer.codes(tokenizer.config)
    return fitting_vocabulary(
        kind.name, known, whole.vocabulary, whole.published, codes
    )


def _exported(table: Table, weights: Weights) -> _Exported:
    """Published name → shape and type, and how to get the numbers."""
    check_initials(table, weights.reader)
    specs = weights.reader.specs
    assignments = plan(table, specs, network_of(weights.config).counts(weights.config))
    return {
        key: (spec, partial(export_one, assignments[key], weights.reader))
        for key, spec in export_specs(assignments, specs).items()
    }


def _exported_tokenizer(beside: ImageTokenizer, tokenizer: Weights) -> _Exported:
    """What the decoder's files hold of an image tokenizer."""
    exported = _exported(beside.table(tokenizer.config), tokenizer)
    names = {key: beside.rename(key) for key in exported}
    return {name: exported[key] for key, name in names.items() if name is not None}


def _check_tokenizer(kind: Format, beside: ImageTokenizer, tokenizer: Weights) -> None:
    """Refuse an image tokenizer that the decoder's class cannot have."""
    if not isinstance(tokenizer.config, beside.config):
        raise WeightsError(
            f"the image tokenizer is a {names_of((type(tokenizer.config),))}; give a"
            f" {names_of((beside.config,))}"
        )
    fields.check(f"{kind.name}'s image tokenizer", tokenizer.config, kind.holdings)


def _progress(specs: Mapping[str, Spec]) -> tqdm:
    """Bytes done, rate and time left, on a terminal."""
    total = sum(spec.size for spec in specs.values())
    return tqdm(total=total, unit="B", unit_scale=True, disable=None)
