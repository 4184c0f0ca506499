"""Sources of any format, opened as our parameters and read slice by slice."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, DTypeLike

from unitoken_jax.checkpoint.weights_file import is_weights_file
from unitoken_jax.convert.checkpoints import (
    CheckpointReader,
    WeightsFileReader,
    read_config,
    read_run,
)
from unitoken_jax.convert.files.readers import (
    FiniteReader,
    PublishedReader,
    SubtreeReader,
)
from unitoken_jax.convert.files.sources import (
    ArraySource,
    PartSource,
    Source,
    unwrapped,
)
from unitoken_jax.convert.formats import (
    JAX,
    Format,
    config_of,
    format_of,
    matching,
    network_of,
    networks,
)
from unitoken_jax.convert.table import Counts, Rule, import_tensors
from unitoken_jax.convert.tensors import Reader, TreeReader, WeightsError
from unitoken_jax.convert.vocabulary import FILE as TOKENIZER
from unitoken_jax.convert.vocabulary import Vocabulary, read_vocabulary

log = logging.getLogger(__name__)

Where = str | os.PathLike[str]
Arrays = Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Weights:
    """Parameters that have not been read.

    Attributes:
        config: configuration of the network.
        reader: its parameters.
        published: what their published source said of the model.
        vocabulary: the names of the decoder's ids, if the source has them.
    """

    config: object
    reader: Reader
    published: Mapping[str, object]
    vocabulary: Vocabulary | None = None

    def held_by(self, holds: tuple[type, ...]) -> "Weights | None":
        """These weights, or the part of them whose configuration is one of `holds`."""
        if isinstance(self.config, holds):
            return self
        for prefix, part in network_of(self.config).parts(self.config).items():
            if isinstance(part.config, holds):
                return self._below(prefix)
        return None

    def part(self, name: str) -> "Weights":
        """The part of a name, such as "decoder".

        Raises:
            WeightsError: there is none.
        """
        parts = network_of(self.config).parts(self.config)
        if f"{name}/" not in parts:
            known = ", ".join(prefix.rstrip("/") for prefix in parts) or "none"
            raise WeightsError(
                f"a {names_of((type(self.config),))} has no part {name!r} that can be"
                f" written alone; it has {known}"
            )
        return self._below(f"{name}/")

    def _below(self, prefix: str) -> "Weights":
        part = network_of(self.config).parts(self.config)[prefix]
        published = {**self.published, **part.said}
        reader = SubtreeReader(self.reader, prefix)
        return Weights(part.config, reader, published, self.vocabulary)


def names_of(configs: tuple[type, ...]) -> str:
    """Networks by the classes of their configurations, for messages."""
    titles = {network.config: network.title for network in networks().values()}
    return " or ".join(
        titles.get(one) or one.__name__.removesuffix("Config") for one in configs
    )


def open_weights(
    source_format: str | Format,
    source: Where | Arrays,
    config: object = None,
    weights: str | None = None,
) -> Weights:
    """Open a source as our parameters.

    Args:
        source_format: a format, its name or entry point, or "jax".
        source: a file or folder, or a mapping of name → array.
        config: see `exchange.load`.
        weights: which set of a source that holds several ("ema").

    Raises:
        WeightsError: see `exchange.load`.
    """
    if source_format == JAX:
        return _open_jax(source, config, weights)
    published = open_published(source_format, source, config, weights)
    vocabulary = None
    with_ids = network_of(published.config).ids is not None
    reader = published.reader()
    if not isinstance(source, Mapping) and with_ids:
        vocabulary = _vocabulary_beside(Path(source))
    return Weights(published.config, reader, published.source.config, vocabulary)


@dataclass(frozen=True)
class Published:
    """A published source and what it is.

    Attributes:
        format: its format.
        source: its tensors.
        config: configuration of our network.
        given: the configuration that was given beside it, if any.
    """

    format: Format
    source: Source
    config: object
    given: object

    def reader(self) -> PublishedReader:
        """Our parameters, read when asked for.

        Raises:
            WeightsError: names, shapes or types are not those of the format.
        """
        network = network_of(self.config)
        counts = network.counts(self.config)
        try:
            _check_counts(counts, self.source)
            return PublishedReader(
                self.format.table(self.config),
                self.source,
                network.abstract(self.config),
                counts,
            )
        except WeightsError as fault:
            raise self._explained(fault) from fault

    def params(self, dtype: DTypeLike | None = None) -> dict[str, Any]:
        """Our parameters as a nested dict of NumPy arrays.

        Args:
            dtype: their type; None keeps the source's.

        Raises:
            WeightsError: see `reader`.
        """
        network = network_of(self.config)
        counts = network.counts(self.config)
        try:
            _check_counts(counts, self.source)
            table = self.format.table(self.config)
            shapes = network.abstract(self.config)
            return import_tensors(table, self.source, shapes, counts, dtype=dtype)
        except WeightsError as fault:
            raise self._explained(fault) from fault

    def _explained(self, fault: ValueError) -> WeightsError:
        return _explained(fault, self.format, self.source, self.given)


def open_published(
    source_format: str | Format,
    source: Where | Arrays,
    given: object = None,
    weights: str | None = None,
) -> Published:
    """Open a published source, and read which model it is of.

    Raises:
        WeightsError: it cannot be read, or is of no such model.
    """
    kind = format_of(source_format)
    if isinstance(source, Mapping):
        opened = unwrapped(ArraySource(source))
    else:
        opened = kind.open(Path(source), weights)
    config = given
    if given is None or isinstance(given, Mapping):
        opened.config.update(given or {})
        try:
            config = kind.refine(kind.read_config(opened.config), opened)
        except ValueError as fault:  # of a configuration whose fields do not fit
            raise _explained(fault, kind, opened, given) from fault
    if not isinstance(config, kind.holds):
        raise WeightsError(
            f"{kind.name} holds a {names_of(kind.holds)}, and the configuration given"
            f" is of a {names_of((type(config),))}"
        )
    return Published(kind, _selected(kind, opened, config), config, given)


def _check_counts(counts: Counts, source: Source) -> None:
    """Refuse more layers than there are tensors, before any of them is named."""
    for name, many in counts.items():
        if isinstance(many, int) and many > len(source) > 0:
            raise WeightsError(
                f"the configuration has {many:,} of {name}, and the source only"
                f" {len(source):,} tensors: it is of another model"
            )


def _selected(kind: Format, source: Source, config: object) -> Source:
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


def _explained(
    fault: ValueError, kind: Format, source: Source, given: object
) -> WeightsError:
    hint = ""
    likely = matching(source)
    if likely and kind.name not in likely:
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
        others = " or ".join(name for name in likely if name != kind.name)
        hint = f" Its names would also be those of {others}."
    text = str(fault).rstrip(".")
    return WeightsError(f"{source.where} as {kind.name}: {text}.{hint}")


def _vocabulary_beside(path: Path) -> Vocabulary | None:
    """The tokenizer.json of a folder, or beside a file."""
    file = (path if path.is_dir() else path.parent) / TOKENIZER
    return read_vocabulary(file) if file.exists() else None


def _open_jax(source: Where | Arrays, config: object, weights: str | None) -> Weights:
    if isinstance(source, Mapping):
        if config is None or isinstance(config, Mapping):
            raise WeightsError(
                "a mapping of parameters does not say which model it is; give config"
            )
        return held(config, source)
    path = Path(source)
    described = read_config(path)
    if isinstance(config, Mapping):
        raise WeightsError(
            "a checkpoint of ours has its configuration beside it, to which nothing is"
            " added; leave --config out"
        )
    if config is None:
        config = config_of(described["model"], f"{path}: model")
    if is_weights_file(path):
        if weights not in (None, "params"):
            raise WeightsError(f"{path} holds one set of weights, and no {weights!r}")
        reader = WeightsFileReader(path)
    else:
        reader = CheckpointReader(path, _own_set(described, weights))
    return Weights(
        config,
        FiniteReader(reader, str(path)),
        described.get("published") or {},
        _own_vocabulary(path, described),
    )


def held(
    config: object,
    params: Mapping[str, object],
    published: Mapping[str, object] | None = None,
) -> Weights:
    """Parameters in memory, of a network of this configuration."""
    reader = FiniteReader(TreeReader(params), "the given parameters")
    return Weights(config, reader, published or {})


def _own_set(described: Mapping[str, object], weights: str | None) -> str:
    """Which parameters of a run: those that its generation and evaluation take."""
    known = ("params", "ema")
    if weights is not None:
        if weights not in known:
            raise WeightsError(
                f"a checkpoint of ours holds no weights {weights!r}; it holds params,"
                " and ema if it was trained with train.ema"
            )
        return weights
    train = described.get("train")
    if isinstance(train, Mapping) and train.get("ema"):
        log.warning(
            "The moving average of the run's parameters is taken, as in its evaluation;"
            " --weights=params takes the parameters themselves."
        )
        return "ema"
    return "params"


def _own_vocabulary(path: Path, described: Mapping[str, object]) -> Vocabulary | None:
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
