"""Networks that judge images: features of one set, distances of pairs.

`alexnet` is that of shift-tolerant LPIPS, which a package ships; its distances are
called by its name, for they are neither an FID nor the published LPIPS.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from unitoken_jax import convert
from unitoken_jax.generate.decode import call
from unitoken_jax.models.perceptual import stlpips
from unitoken_jax.models.system import Params
from unitoken_jax.ops import pixels

Outputs = Mapping[str, jax.Array]
"""`features` [B, D] and, of a classifier, `logits` [B, C]."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns images into features.

    Attributes:
        name: The network's name, a part of the names of its measures.
        module: Its Linen module.
        params: Its parameters.
        extract: (module, params, images uint8 [B, H, W, 3]) → `Outputs`.
        smallest: Least side of an image in pixels.
    """

    name: str
    module: nn.Module
    params: Params
    extract: Callable[[nn.Module, Params, jax.Array], Outputs]
    smallest: int = 1


@dataclass(frozen=True)
class PairNetwork:
    """A network that compares two images.

    Attributes:
        name: The distance's name.
        module: From two batches [B, H, W, 3] in [-1, 1] to distances [B].
        params: Its parameters.
        smallest: Least side of an image in pixels.
    """

    name: str
    module: nn.Module
    params: Params
    smallest: int = 1


class FeatureExtractors(NamedTuple):
    """Networks that judge images: of sets, and of pairs; false without any."""

    features: Sequence[FeatureNetwork]
    pairs: Sequence[PairNetwork]

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self.features or self.pairs)

    def of_side(self, side: int) -> "FeatureExtractors":
        """Return those that can see images of a side in pixels."""
        return FeatureExtractors(
            [network for network in self.features if network.smallest <= side],
            [network for network in self.pairs if network.smallest <= side],
        )


def load_extractors(alexnet: str, inception: str, lpips: str) -> FeatureExtractors:
    """Open the networks whose weights are there.

    Args:
        alexnet: Weights of the package `stlpips-pytorch`; left out where they are not.
        inception: Published weights of the FID's Inception, a conversion, or "".
        lpips: Published weights of LPIPS with VGG16, a conversion, or "".

    Raises:
        UserError: Weights are missing, damaged or those of another network.
    """
    features, pairs = [], []
    if alexnet and Path(alexnet).exists():
        module, params = _weights("stlpips", alexnet)
        features.append(alexnet_features(module, params))
        pairs.append(alexnet_distance(module, params))
    if inception:
        features.append(inception_features(*_weights("inception", inception)))
    if lpips:
        pairs.append(PairNetwork("lpips", *_weights("lpips", lpips)))
    return FeatureExtractors(features, pairs)


def _weights(kind: str, path: str) -> tuple[nn.Module, Params]:
    """Read weights, published or converted, in float32."""
    converted = (Path(path) / "checkpoints").is_dir()
    return convert.load("jax" if converted else kind, path, dtype=np.float32)


def inception_features(module: nn.Module, params: Params) -> FeatureNetwork:
    """Return the FID's network (`inception.InceptionV3`)."""
    return FeatureNetwork("inception", module, params, _call)


def alexnet_features(module: nn.Module, params: Params) -> FeatureNetwork:
    """Return the last activations of `stlpips.StLpips`, averaged in space."""
    return FeatureNetwork(
        "alexnet", module, params, _last_activations, stlpips.SMALLEST
    )


def alexnet_distance(module: nn.Module, params: Params) -> PairNetwork:
    """Return the distance of `stlpips.StLpips`."""
    return PairNetwork("stlpips_alexnet", module, params, stlpips.SMALLEST)


def _call(module: nn.Module, params: Params, images: jax.Array) -> Outputs:
    return call(module, params, "__call__", images)


def _last_activations(module: nn.Module, params: Params, images: jax.Array) -> Outputs:
    normal = pixels.normalize(images)
    layers = call(module, params, "activations", normal)
    return {"features": layers[-1].mean((1, 2))}  # [B, h, w, D] → [B, D]


@functools.partial(jax.jit, static_argnames=("extract", "module"))
def features(
    extract: Callable[[nn.Module, Params, jax.Array], Outputs],
    module: nn.Module,
    params: Params,
    images: jax.Array,
) -> Outputs:
    """Return features of a batch of images, compiled; see `FeatureNetwork`."""
    return extract(module, params, images)


@functools.partial(jax.jit, static_argnames="module")
def _compare(
    module: nn.Module, params: Params, first: jax.Array, second: jax.Array
) -> jax.Array:
    sides = pixels.normalize(first), pixels.normalize(second)
    return call(module, params, "__call__", *sides)


def distances(
    network: PairNetwork, pairs: Iterable[tuple[np.ndarray, np.ndarray]], batch: int
) -> np.ndarray:
    """Compare pairs of images, a batch in memory at a time.

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
