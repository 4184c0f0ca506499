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
    read_run,
    write_checkpoint,
)
from unitoken_jax.convert.configs import fields
from unitoken_jax.convert.configs.vqgan import write_vq_config
from unitoken_jax.convert.formats import FORMATS, JAX, Format, format_of, matching
from unitoken_jax.convert.networks import config_of, network_of, node_of
from unitoken_jax.convert.readers import (
    CastReader,
    FiniteReader,
    PublishedReader,
    SubtreeReader,
    WatchedReader,
)
from unitoken_jax.convert.sinks import refuse_existing
from unitoken_jax.convert.sources import (
    ArraySource,
    PartSource,
    Source,
    unwrapped,
)
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
from unitoken_jax.convert.vocabulary import (
    FILE as TOKENIZER,
)
from unitoken_jax.convert.vocabulary import (
    IMAGE,
    Vocabulary,
    codes_of,
    known_vocabulary,
    read_vocabulary,
)
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vqgan import VQGANConfig

log = logging.getLogger(__name__)

Where = str | os.PathLike[str]
_WITH_TOKENIZER = "chameleon-hf"
_DECODERS = (DecoderConfig, UniTokenConfig, UniTokMllmConfig)
_Exported = dict[str, tuple[Spec, Callable[[], np.ndarray]]]


@dataclass(frozen=True)
class Weights:
    """Parameters that have not been read.

    Attributes:
        config: configuration of the network.
        reader: its parameters.
        published: what their published source said of the model.
        vocabulary: the names of the decoder's ids, if the source has them.
    """

    config: Any
    reader: Reader
    published: Mapping[str, Any]
    vocabulary: Vocabulary | None = None

    def part(self, holds: tuple[type, ...]) -> "Weights | None":
        """These weights, or the part of them whose configuration is one of `holds`."""
        if isinstance(self.config, holds):
            return self
        for prefix, config in network_of(self.config).parts(self.config).items():
            if isinstance(config, holds):
                return self._below(prefix, config)
        return None

    def named(self, name: str) -> "Weights":
        """The part of a name, such as "decoder".

        Raises:
            WeightsError: there is none.
        """
        parts = network_of(self.config).parts(self.config)
        if f"{name}/" not in parts:
            known = ", ".join(prefix.rstrip("/") for prefix in parts) or "none"
            raise WeightsError(
                f"a {_names((type(self.config),))} has no part {name!r} that can be"
                f" written alone; it has {known}"
            )
        return self._below(f"{name}/", parts[f"{name}/"])

    def _below(self, prefix: str, config: Any) -> "Weights":
        published = dict(self.published)
        if isinstance(self.config, UniTokenConfig):
            published["mask_image_logits"] = self.config.mask_image_logits
        reader = SubtreeReader(self.reader, prefix)
        return Weights(config, reader, published, self.vocabulary)


def load(
    format: str,
    source: Where | Mapping[str, Any],
    config: Any = None,
    *,
    dtype: Any = None,
    weights: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Weights of a format as one of our modules and its parameters.

    Args:
        format: a name of `FORMATS`, or "jax" for our own checkpoints.
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
        opened = _open_jax(source, config, weights)
        reader = CastReader(opened.reader, dtype) if dtype else opened.reader
        leaves = {name: reader.read(name, ()) for name in reader.specs}
        params = traverse_util.unflatten_dict(leaves, sep="/")
        return network_of(opened.config).module(opened.config), params
    given = config
    kind, found, config = _open_published(format, source, given, weights)
    network = network_of(config)
    try:
        _check_counts(network.counts(config), found)
        params = import_tensors(
            kind.table(config),
            found,
            network.abstract(config),
            network.counts(config),
            dtype=dtype,
        )
    except WeightsError as fault:
        raise _explained(fault, format, found, given) from fault
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
    vocabulary: Where | None = None,
    part: str | None = None,
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
        vocabulary: tokenizer.json with the names of the decoder's ids, which
            Chameleon's formats list.
        part: name of the part of the model to write ("vision"); None writes all that
            the format holds.

    Raises:
        WeightsError: the path is taken, the disk is full, or the format cannot hold
            this model.
    """
    weights = _held(model, params, published or {})
    tokenizer = None
    if image_tokenizer is not None:
        tokenizer = _held(*image_tokenizer, {})
    if vocabulary is not None:
        weights = replace(weights, vocabulary=read_vocabulary(Path(vocabulary)))
    weights = weights if part is None else weights.named(part)
    _write(format, weights, Path(path), dtype, tokenizer)


def _held(
    model: nn.Module, params: Mapping[str, Any], published: Mapping[str, Any]
) -> Weights:
    """Parameters in memory."""
    config = getattr(model, "config", None)
    reader = FiniteReader(TreeReader(params), "the given parameters")
    return Weights(config, reader, published)


def convert(
    source_format: str,
    target_format: str,
    source: Where,
    path: Where,
    *,
    config: Any = None,
    dtype: Any = None,
    image_tokenizer: Where | None = None,
    weights: str | None = None,
    vocabulary: Where | None = None,
    part: str | None = None,
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
        is_ours = (Path(image_tokenizer) / "checkpoints").is_dir()
        tokenizer = open_weights(JAX if is_ours else "vqgan", image_tokenizer)
    if vocabulary is not None:
        opened = replace(opened, vocabulary=read_vocabulary(Path(vocabulary)))
    opened = opened if part is None else opened.named(part)
    _write(target_format, opened, Path(path), dtype, tokenizer)


def open_weights(
    format: str,
    source: Where | Mapping[str, Any],
    config: Any = None,
    weights: str | None = None,
) -> Weights:
    """Open a source as our parameters, read slice by slice when asked for."""
    if format == JAX:
        return _open_jax(source, config, weights)
    given = config
    kind, opened, config = _open_published(format, source, given, weights)
    network = network_of(config)
    try:
        _check_counts(network.counts(config), opened)
        reader = PublishedReader(
            kind.table(config),
            opened,
            network.abstract(config),
            network.counts(config),
        )
    except WeightsError as fault:
        raise _explained(fault, format, opened, given) from fault
    vocabulary = None
    if not isinstance(source, Mapping) and isinstance(config, _DECODERS):
        vocabulary = _vocabulary_beside(Path(source))
    return Weights(config, reader, opened.config, vocabulary)


def _vocabulary_beside(path: Path) -> Vocabulary | None:
    """The tokenizer.json of a folder, or beside a file."""
    file = (path if path.is_dir() else path.parent) / TOKENIZER
    return read_vocabulary(file) if file.exists() else None


def _open_jax(
    source: Where | Mapping[str, Any], config: Any, weights: str | None
) -> Weights:
    if isinstance(source, Mapping):
        if config is None or isinstance(config, Mapping):
            raise WeightsError(
                "a mapping of parameters does not say which model it is; give config"
            )
        return Weights(
            config, FiniteReader(TreeReader(source), "the given parameters"), {}
        )
    path = Path(source)
    described = read_config(path)
    if isinstance(config, Mapping):
        raise WeightsError(
            "a checkpoint of ours has its configuration beside it, to which nothing is"
            " added; leave --config out"
        )
    if config is None:
        config = config_of(described["model"], f"{path}: model")
    reader = CheckpointReader(path, _own_set(described, weights))
    return Weights(
        config,
        FiniteReader(reader, str(path)),
        described.get("published") or {},
        _own_vocabulary(path, described),
    )


def _own_set(described: Mapping[str, Any], weights: str | None) -> str:
    """Which parameters of a run: those that its generation and evaluation take."""
    known = ("params", "average")
    if weights is not None:
        if weights not in known:
            raise WeightsError(
                f"a checkpoint of ours holds no weights {weights!r}; it holds params,"
                " and average if it was trained with train.average"
            )
        return weights
    train = described.get("train")
    if isinstance(train, Mapping) and train.get("average"):
        log.warning(
            "The moving average of the run's parameters is taken, as in its evaluation;"
            " --weights=params takes the parameters themselves."
        )
        return "average"
    return "params"


def _own_vocabulary(path: Path, described: Mapping[str, Any]) -> Vocabulary | None:
    """The tokenizer.json of a conversion, or of a run's data as far as it is known."""
    stage = path.parent if path.name == "checkpoints" else path
    folders = [stage]
    codes, data = described.get("codes"), described.get("data")
    if isinstance(codes, Mapping) and codes.get("stage"):
        folders.append(stage.parent / "codes" / str(codes["stage"]))
    if isinstance(data, Mapping) and data.get("directory"):
        folders.append(Path(str(data["directory"])))
    if directory := read_run(path).get("data_dir"):
        folders.append(Path(str(directory)))
    for folder in folders:
        if (folder / TOKENIZER).is_file():
            return read_vocabulary(folder / TOKENIZER)
    return None


def _open_published(
    format: str, source: Where | Mapping[str, Any], config: Any, weights: str | None
) -> tuple[Format, Source, Any]:
    kind = format_of(format)
    if isinstance(source, Mapping):
        opened = unwrapped(ArraySource(source))
    else:
        opened = kind.open(Path(source), weights)
    if config is None or isinstance(config, Mapping):
        opened.config.update(config or {})
        try:
            config = kind.refine(kind.read_config(opened.config), opened)
        except ValueError as fault:  # of a configuration whose fields do not fit
            raise _explained(fault, format, opened, config) from fault
    if not isinstance(config, kind.holds):
        raise WeightsError(
            f"{format} holds a {_names(kind.holds)}, and the configuration given is of"
            f" a {_names((type(config),))}"
        )
    return kind, _selected(kind, opened, config), config


def _check_counts(counts: Mapping[str, Any], source: Source) -> None:
    """Refuse more layers than there are tensors, before any of them is named."""
    for name, many in counts.items():
        if isinstance(many, int) and many > len(source) > 0:
            raise WeightsError(
                f"the configuration has {many:,} of {name}, and the source only"
                f" {len(source):,} tensors: it is of another model"
            )


def _selected(kind: Format, source: Source, config: Any) -> Source:
    """The part of a larger file that the format is about, if it is a part."""
    rules = (rule for rule in kind.table(config) if isinstance(rule, Rule))
    key = next((rule.key for rule in rules if "{" not in rule.key), "")
    if key in source:
        return source
    for prefix in kind.prefixes:
        if prefix + key in source:
            part = PartSource(source, prefix)
            log.info("%s: %d tensors, %s*", source.where, len(part), prefix)
            return part
    return source


def _write(
    format: str,
    weights: Weights,
    path: Path,
    dtype: Any,
    tokenizer: Weights | None,
) -> None:
    refuse_existing(path)
    if dtype is not None:
        weights = replace(weights, reader=CastReader(weights.reader, dtype))
    if tokenizer is not None and format != _WITH_TOKENIZER:
        raise WeightsError(
            f"{format} has no image tokenizer in it; only {_WITH_TOKENIZER} has. Write"
            " the tokenizer by itself, in the format vqgan"
        )
    if format == JAX:
        _write_jax(weights, path)
        return
    kind = format_of(format)
    held = weights.part(kind.holds)
    if held is None:
        raise WeightsError(
            f"{format} holds a {_names(kind.holds)}, and the source is a"
            f" {_names((type(weights.config),))}; it can be written as"
            f" {', '.join(_fitting(weights.config))}"
        )
    changes = fields.check(format, held.config, kind.holdings)
    changes += kind.changes(held.config)
    vocabulary = _vocabulary_of(format, weights, tokenizer) if kind.names_ids else None
    vocabulary = vocabulary or _text_vocabulary(held)
    said = dict(held.published)
    if vocabulary is not None:
        said |= vocabulary.special
        if kind.names_ids:
            said["vocabulary_map"] = dict(vocabulary.ids)
    exported = _exported(kind.table(held.config), held)
    values = dict(kind.write_config(held.config, said))
    if tokenizer is not None:
        exported |= _exported_tokenizer(tokenizer, dtype)
        values["vq_config"] = write_vq_config(tokenizer.config)
    specs = {key: spec for key, (spec, _) in exported.items()}
    files = vocabulary.files() if vocabulary else {}
    with _progress(specs) as shown:

        def read(key: str) -> np.ndarray:
            spec, give = exported[key]
            shown.update(spec.size)
            return give()

        kind.write(path, specs, read, values, files)
    for change in changes:
        log.warning(
            "%s: the released code does not load it as it is: %s.", path, change
        )


def _write_jax(weights: Weights, path: Path) -> None:
    specs = weights.reader.specs
    files = {}
    if weights.vocabulary is not None:
        files = weights.vocabulary.files()
        files = {TOKENIZER: files[TOKENIZER]} if TOKENIZER in files else {}
    with _progress(specs) as shown:
        reader = WatchedReader(weights.reader, shown.update)
        node = node_of(weights.config)
        write_checkpoint(path, reader, node, weights.published, files)


def _text_vocabulary(weights: Weights) -> Vocabulary | None:
    """The tokenizer that goes with a decoder whose format lists no names."""
    return weights.vocabulary if isinstance(weights.config, _DECODERS) else None


def _vocabulary_of(
    format: str, weights: Weights, tokenizer: Weights | None
) -> Vocabulary | None:
    """The names of a decoder's ids, as far as they are known, checked.

    Raises:
        WeightsError: they do not fit the decoder or the image tokenizer; or an image
            tokenizer goes along and its codes or `<image>` have no name.
    """
    config, codes = weights.config, None
    size = getattr(config, "decoder", config).vocab_size
    if isinstance(config, UniTokenConfig):
        codes = config.first_image_code, config.last_image_code
    found = weights.vocabulary or known_vocabulary(size, weights.published, codes)
    where = found.where if found else "nothing"
    # What a tokenizer adds beyond the vocabulary has no embedding.
    ids = {
        name: i
        for name, i in (found.ids if found else {}).items()
        if not isinstance(i, int) or i < size or name == IMAGE or codes_of({name: i})
    }
    if not all(isinstance(i, int) and 0 <= i < size for i in ids.values()):
        raise WeightsError(
            f"vocabulary_map: {where} has ids that are none of the decoder's"
            f" vocab_size={size}; give the tokenizer.json of its data as --vocabulary"
        )
    named = codes_of(ids)
    if codes is not None and named:
        first, last = min(named.values()), max(named.values())
        if (first, last) != codes:
            raise WeightsError(
                f"vocabulary_map: {where} has its image codes at {first}..{last}, and"
                f" the model has first_image_code={codes[0]} and"
                f" last_image_code={codes[1]}; give the tokenizer.json of its data as"
                " --vocabulary"
            )
    if tokenizer is not None:
        wanted = _checked_tokenizer(tokenizer).n_embed
        if IMAGE not in ids or sorted(named) != list(range(wanted)):
            raise WeightsError(
                f"vocabulary_map: the image tokenizer has {wanted} codes (n_embed), and"
                f" {where} names {len(named)} and"
                f" {'' if IMAGE in ids else 'no '}{IMAGE}; without all of them"
                f" {format} cannot see a picture. Give the tokenizer.json of its data"
                " as --vocabulary"
            )
    elif IMAGE not in ids or not named:
        log.warning(
            "%s: the names of the decoder's ids are not known, so that its class cannot"
            " be shown a picture; give the tokenizer.json of its data as --vocabulary.",
            format,
        )
    return replace(found, ids=ids) if found else None


def _exported(table: Table, weights: Weights) -> _Exported:
    """Published name → shape and type, and how to get the numbers."""
    check_initials(table, weights.reader)
    specs = weights.reader.specs
    assignments = plan(table, specs, network_of(weights.config).counts(weights.config))
    return {
        key: (spec, partial(export_one, assignments[key], weights.reader))
        for key, spec in export_specs(assignments, specs).items()
    }


def _exported_tokenizer(tokenizer: Weights, dtype: Any) -> _Exported:
    """The half of the image tokenizer that `transformers`' Chameleon has."""
    config = _checked_tokenizer(tokenizer)
    if dtype is not None:
        tokenizer = replace(tokenizer, reader=CastReader(tokenizer.reader, dtype))
    exported = _exported(vqgan.table(config), tokenizer)
    return {
        f"model.vqmodel.{key}": entry
        for key, entry in exported.items()
        if not key.startswith("decoder.")
    }


def _checked_tokenizer(tokenizer: Weights) -> VQGANConfig:
    """The configuration of an image tokenizer that `transformers` can be."""
    if not isinstance(tokenizer.config, VQGANConfig):
        raise WeightsError(
            f"the image tokenizer is a {_names((type(tokenizer.config),))}; give a"
            " VQGAN"
        )
    holdings = format_of(_WITH_TOKENIZER).holdings
    fields.check(f"{_WITH_TOKENIZER}'s image tokenizer", tokenizer.config, holdings)
    return tokenizer.config


def _progress(specs: Mapping[str, Spec]) -> tqdm:
    """Bytes done, rate and time left, on a terminal."""
    total = sum(spec.size for spec in specs.values())
    return tqdm(total=total, unit="B", unit_scale=True, disable=None)


def _explained(
    fault: ValueError, format: str, source: Source, given: Any
) -> WeightsError:
    """The fault, with what may be behind it."""
    hint = ""
    likely = matching(source)
    if likely and format not in likely:
        hint = (
            f" Its names look like {' or '.join(likely)}: use --from"
            f" {' or '.join(likely)}."
        )
    elif given is None and not source.config:
        hint = (
            " The source does not describe its model, so that the published one was"
            " assumed; give a config."
        )
    elif len(likely) > 1:
        others = " or ".join(name for name in likely if name != format)
        hint = f" Its names would also be those of {others}."
    text = str(fault).rstrip(".")
    return WeightsError(f"{source.where} as {format}: {text}.{hint}")


def _fitting(config: Any) -> list[str]:
    return [JAX] + [
        name for name, kind in FORMATS.items() if isinstance(config, kind.holds)
    ]


def _names(configs: tuple[type, ...]) -> str:
    return " or ".join(one.__name__.removesuffix("Config") for one in configs)
