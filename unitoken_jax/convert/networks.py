"""What converting needs to know of one of our networks, beside its tables."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import jax
from flax import linen as nn
from flax import traverse_util

from unitoken_jax.convert.table import Counts
from unitoken_jax.convert.tensors import WeightsError, flatten

Config = TypeVar("Config")


@dataclass(frozen=True)
class Part:
    """A network within another one, which can be written alone.

    Attributes:
        config: its configuration.
        said: what its published description takes from the whole.
    """

    config: object
    said: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Ids:
    """The ids that a decoder knows.

    Attributes:
        size: how many there are.
        codes: the first and the last one of an image code, if the network says it.
    """

    size: int
    codes: tuple[int, int] | None = None


def _no_parts(config: object) -> Mapping[str, Part]:
    del config
    return {}


@dataclass(frozen=True)
class Network(Generic[Config]):
    """One of our networks.

    Attributes:
        kind: its name in `config.json` of the `jax` format.
        config: the class of its configuration.
        module: the class of its module, made from the configuration.
        example: module → something in which all its parameters take part.
        counts: configuration → how many of each counter of its tables.
        parts: configuration → the networks within it, by the prefix of their paths.
        ids: configuration → the ids that it knows; None for what is no decoder of text.
        title: what messages call it; without one, as its configuration's class.
    """

    kind: str
    config: type[Config]
    module: Callable[[Config], nn.Module]
    example: Callable[..., object]
    counts: Callable[[Config], Counts]
    parts: Callable[[Config], Mapping[str, Part]] = _no_parts
    ids: Callable[[Config], Ids] | None = None
    title: str = ""

    def abstract(self, config: Config) -> Mapping[str, object]:
        """Shapes of the parameters, a plain nested dict; nothing is made.

        Raises:
            WeightsError: there is no such network.
        """
        return _abstract(self, config)


@functools.lru_cache(maxsize=8)  # tracing a deep network takes seconds
def _abstract(network: Network[Config], config: Config) -> Mapping[str, object]:
    def init(key: jax.Array) -> Mapping[str, object]:
        keys = {"params": key, "dropout": key}
        return network.module(config).init(keys, method=network.example)["params"]

    try:
        boxed = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    except (ValueError, TypeError, ArithmeticError, IndexError) as fault:
        said = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise WeightsError(
            f"the configuration describes no {network.kind} that can be built: {said}"
        ) from fault
    return traverse_util.unflatten_dict(flatten(boxed), sep="/")
