"""The formats of `--from` and `--to`: what each is, and which there are.

`FORMATS` lists the published formats that come with us. A model in a file of its own
brings others with it: its `System.formats` names them as entry points
("package.module:attribute"), which stand wherever a format's name may stand.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from unitoken_jax.config import build, nearest, plain
from unitoken_jax.convert.fields import Holdings, Values
from unitoken_jax.convert.files.sinks import Read, write_weights
from unitoken_jax.convert.files.sources import Source, open_source
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import Table
from unitoken_jax.convert.tensors import Spec, WeightsError
from unitoken_jax.models import registry
from unitoken_jax.models.system import EntryPoint, resolve

JAX = "jax"
_PUBLISHED = "unitoken_jax.convert.published"
FORMATS: Mapping[str, EntryPoint] = {
    "unitoken": f"{_PUBLISHED}.unitoken:UNITOKEN",
    "lumina": f"{_PUBLISHED}.chameleon:LUMINA",
    "chameleon-hf": f"{_PUBLISHED}.chameleon:CHAMELEON_HF",
    "chameleon-meta": f"{_PUBLISHED}.chameleon_meta:CHAMELEON_META",
    "siglip-hf": f"{_PUBLISHED}.siglip:SIGLIP_HF",
    "vqgan": f"{_PUBLISHED}.vqgan:VQGAN_CKPT",
    "llama-hf": f"{_PUBLISHED}.chameleon:LLAMA_HF",
    "unitok": f"{_PUBLISHED}.unitok:UNITOK",
    "unitok-mllm": f"{_PUBLISHED}.unitok_mllm:UNITOK_MLLM",
    "llamagen": f"{_PUBLISHED}.llamagen:LLAMAGEN",
    "clip-text": f"{_PUBLISHED}.clip_text:CLIP_TEXT",
    "vitamin-clip": f"{_PUBLISHED}.vitamin:VITAMIN_CLIP",
    "dinov2": f"{_PUBLISHED}.dinov2:DINOV2",
    "lpips": f"{_PUBLISHED}.lpips:LPIPS",
    "stlpips": f"{_PUBLISHED}.lpips:STLPIPS",
    "inception": f"{_PUBLISHED}.inception:INCEPTION",
}
"""Name of a format → where its `Format` stands, which is imported when needed."""

Config = TypeVar("Config")
Tokenizer = TypeVar("Tokenizer")
Description = Mapping[str, object]
"""What a published configuration says of a model: what `config.json` holds."""


class Open(Protocol):
    """How the files of a format are opened."""

    def __call__(self, path: Path, weights: str | None = None) -> Source:
        """Open the files at `path`; `weights` chooses one of several sets."""
        ...


Write = Callable[
    [Path, Mapping[str, Spec], Read, Description, Mapping[str, bytes]], None
]
"""(path, specs, tensors, description, files beside) → files."""
_write_plain: Write = partial(write_weights, beside=".json")


@dataclass(frozen=True)
class ImageTokenizer(Generic[Tokenizer]):
    """The image tokenizer that the files of a decoder hold beside it.

    Attributes:
        format: the format of its own files.
        config: the class of its configuration.
        table: configuration → the rules of its own files.
        rename: a name of its own files → the name here; None for what is left out.
        field: the field of the decoder's description that describes it.
        describe: configuration → that field.
        codes: configuration → how many codes it has.
    """

    format: str
    config: type[Tokenizer]
    table: Callable[[Tokenizer], Table]
    rename: Callable[[str], str | None]
    field: str
    describe: Callable[[Tokenizer], Description]
    codes: Callable[[Tokenizer], int]


def _as_read(config: Config, source: Source) -> Config:
    del source
    return config


def _as_released(config: object) -> list[str]:
    del config
    return []


@dataclass(frozen=True)
class Format(Generic[Config]):
    """One published layout of weights: all that reading and writing it needs.

    Attributes:
        name: what it is called in `--from` and `--to`.
        title: whose files these are.
        marks: names that only such files have together.
        networks: the networks that it can hold.
        published: configurations of the published models, one for each network.
        table: configuration → rules.
        holdings: how every field of the configurations is held, by their classes.
        read_config: what the source says of its model → configuration; with nothing
            said, the published model's.
        write_config: (configuration, what an earlier source said) → what to say.
        refine: (configuration read, tensors) → configuration, for what the source does
            not say but its tensors show.
        prefixes: what may stand before every name of a larger file, of which the rest
            is then left out.
        names_ids: whether its files list the names of the decoder's ids.
        image_tokenizer: the image tokenizer that its files can hold too; or None.
        changes: configuration → what the released code must be changed in before it
            loads the model, beside what `holdings` says.
        open: (path, chosen set of weights) → tensors.
        write: (path, specs, tensors, what to say, files beside) → files.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    networks: tuple[Network, ...]
    published: tuple[Config, ...]
    table: Callable[[Config], Table]
    holdings: Holdings
    read_config: Callable[[Values], Config]
    write_config: Callable[[Config, Values], Description]
    refine: Callable[[Config, Source], Config] = _as_read
    prefixes: tuple[str, ...] = ()
    names_ids: bool = False
    image_tokenizer: ImageTokenizer | None = None
    changes: Callable[[Config], list[str]] = _as_released
    open: Open = open_source
    write: Write = _write_plain

    @property
    def holds(self) -> tuple[type, ...]:
        """Classes of the configurations it can hold."""
        return tuple(network.config for network in self.networks)


def format_of(name: str | Format) -> Format:
    """The format of a name or an entry point; a format itself stays what it is.

    Raises:
        WeightsError: an unknown name; the message has the nearest known one.
    """
    if isinstance(name, Format):
        return name
    if name not in FORMATS and ":" not in name:
        raise WeightsError(
            f"there is no format {name!r}{nearest(name, (JAX, *FORMATS))}"
        )
    return _resolved(FORMATS.get(name, name))


@functools.cache
def _resolved(entry: EntryPoint) -> Format:
    try:
        found = resolve(entry)
    except (ImportError, AttributeError, ValueError) as fault:
        raise WeightsError(f"there is no format {entry!r} ({fault})") from fault
    if not isinstance(found, Format):
        raise WeightsError(f"{entry} is a {type(found).__name__} and no format")
    return found


def formats_of(config: object) -> Iterator[Format]:
    """The formats that hold a configuration, those that its model brings too."""
    for name in FORMATS:
        if isinstance(config, format_of(name).holds):
            yield format_of(name)
    for name in _brought(config):
        if name not in FORMATS and isinstance(config, format_of(name).holds):
            yield format_of(name)


def _brought(config: object) -> tuple[EntryPoint, ...]:
    """What the `System` of a configuration names as its formats."""
    for kind in registry.KINDS:
        if registry.config_class(kind) is type(config):
            return registry.system_of(kind, config).formats
    return ()


def network_of(config: object) -> Network:
    """The network that a configuration is of.

    Raises:
        WeightsError: none of ours.
    """
    for one in formats_of(config):
        for network in one.networks:
            if type(config) is network.config:
                return network
    known = ", ".join(network.config.__name__ for network in networks().values())
    raise WeightsError(
        f"{type(config).__name__} is the configuration of no network whose weights can"
        f" be converted; known are {known}"
    )


def networks() -> dict[str, Network]:
    """The networks of `FORMATS` by their kinds."""
    return {
        network.kind: network
        for name in FORMATS
        for network in format_of(name).networks
    }


def node_of(config: object) -> dict[str, object]:
    """A configuration as primitives, with the kind that `config_of` needs."""
    return {"kind": network_of(config).kind, **plain(config)}


def config_of(node: Mapping[str, object], path: str) -> object:
    """The configuration that a `model` node describes; the reverse of `node_of`.

    Raises:
        WeightsError: a kind that is not ours.
        ConfigError: a field that the kind does not have.
    """
    fields = dict(node)
    kind = str(fields.pop("kind", None))
    if network := networks().get(kind):
        return build(network.config, fields, path)
    if kind in registry.KINDS:
        return registry.build(node, path).config
    raise WeightsError(f"{path}.kind is {kind!r}{nearest(kind, networks())}")


def matching(source: Source) -> list[str]:
    """Formats that a source looks like: those most of whose marks it has."""
    found = {
        name: len(format_of(name).marks)
        for name in FORMATS
        if all(mark in source for mark in format_of(name).marks)
    }
    most = max(found.values(), default=0)
    return [name for name, marks in found.items() if marks == most]
