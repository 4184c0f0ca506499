"""Networks that judge pictures: features of one set, distances of pairs.

`alexnet` is that of shift-tolerant LPIPS, which a package ships; its distances are
called by its name, for they are neither an FID nor the published LPIPS.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from unitoken_jax.models import stlpips
from unitoken_jax.ops import pixels

Found = Mapping[str, jax.Array]


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns pictures into features.

    Attributes:
        name: Of the network, a part of the names of its measures.
        module: Of the network.
        params: Its parameters.
        look: (module, params, pictures uint8 [B, H, W, 3]) → `features` [B, D] and, of
            a classifier, `logits` [B, C].
        smallest: Least side of a picture in pixels.
    """

    name: str
    module: nn.Module
    params: Any
    look: Callable[[nn.Module, Any, jax.Array], Found]
    smallest: int = 1


@dataclass(frozen=True)
class PairNetwork:
    """A network that compares two pictures.

    Attributes:
        name: Of its distance.
        module: From two batches [B, H, W, 3] in [-1, 1] to distances [B].
        params: Its parameters.
        smallest: Least side of a picture in pixels.
    """

    name: str
    module: nn.Module
    params: Any
    smallest: int = 1


class Judges(NamedTuple):
    """Networks that judge pictures: of sets, and of pairs."""

    features: Sequence[FeatureNetwork]
    pairs: Sequence[PairNetwork]

    def of_side(self, side: int) -> "Judges":
        """Those that can see pictures of a side in pixels."""
        return Judges(
            [network for network in self.features if network.smallest <= side],
            [network for network in self.pairs if network.smallest <= side],
        )


def inception(module: nn.Module, params: Any) -> FeatureNetwork:
    """The FID's network (`models.inception.InceptionV3`)."""
    return FeatureNetwork("inception", module, params, _call)


def alexnet(module: nn.Module, params: Any) -> FeatureNetwork:
    """The last activations of `models.stlpips.StLpips`, averaged over the picture."""
    return FeatureNetwork(
        "alexnet", module, params, _last_activations, stlpips.SMALLEST
    )


def alexnet_distance(module: nn.Module, params: Any) -> PairNetwork:
    """The distance of `models.stlpips.StLpips`."""
    return PairNetwork("stlpips_alexnet", module, params, stlpips.SMALLEST)


def _call(module: nn.Module, params: Any, pictures: jax.Array) -> Found:
    return module.apply({"params": params}, pictures)  # pyright: ignore[reportReturnType]


def _last_activations(module: nn.Module, params: Any, pictures: jax.Array) -> Found:
    images = pixels.normalize(pictures)
    layers: Any = module.apply({"params": params}, images, method="activations")
    return {"features": layers[-1].mean((1, 2))}


@functools.partial(jax.jit, static_argnames=("look", "module"))
def features(
    look: Callable[..., Found], module: nn.Module, params: Any, pictures: jax.Array
) -> Found:
    """Features of a batch of pictures, compiled; see `FeatureNetwork`."""
    return look(module, params, pictures)


@functools.partial(jax.jit, static_argnames="module")
def _compare(
    module: nn.Module, params: Any, first: jax.Array, second: jax.Array
) -> jax.Array:
    sides = pixels.normalize(first), pixels.normalize(second)
    return module.apply({"params": params}, *sides)  # pyright: ignore[reportReturnType]


def distances(
    network: PairNetwork, pairs: Iterable[tuple[np.ndarray, np.ndarray]], batch: int
) -> np.ndarray:
    """Compare pairs of pictures, a batch in memory at a time.

    Args:
        network: What compares.
        pairs: Both uint8 [H, W, 3], all of one size, at least one pair.
        batch: Pairs at once.

    Returns:
        float32 [N].
    """
    pairs, found = iter(pairs), []
    while group := list(islice(pairs, batch)):
        filled = group + group[-1:] * (batch - len(group))
        first, second = (np.stack(side) for side in zip(*filled, strict=True))
        distance = _compare(network.module, network.params, first, second)
        found.append(np.asarray(distance)[: len(group)])
    return np.concatenate(found)
