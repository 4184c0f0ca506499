"""Shift-tolerant LPIPS with AlexNet (ECCV 2022, `stlpips-pytorch`).

AlexNet without strides: after the first convolution and after each max-pooling the map
is blurred and halved. Images are [B, H, W, 3] in [-1, 1]; sides from 16 pixels.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn import initializers

from unitoken_jax.layers.convolution import Conv
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.models.perceptual.lpips import SCALE, SHIFT, unit_channels
from unitoken_jax.ops.convolution import depthwise

_BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16


SMALLEST = 13
"""Least side of a picture in pixels; of a smaller one nothing is left to blur."""


@dataclass(frozen=True)
class StLpipsConfig:
    """Shape of the network; the defaults are AlexNet's convolutions.

    Attributes:
        widths: channels of the convolutions; the activations of each are compared.
        sizes: sides of their kernels.
        dtype: type of the computation.
    """

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    sizes: tuple[int, ...] = (11, 5, 3, 3, 3)
    dtype: Dtype = "float32"


class StLpips(nn.Module):
    """The distance; parameters `conv_{i}` and `weight_{i}` [C]."""

    config: StLpipsConfig

    def setup(self) -> None:
        """Make the convolutions and the weights of their differences."""
        config = self.config
        convs, weights = [], []
        layers = zip(config.widths, config.sizes, strict=True)
        for i, (width, size) in enumerate(layers):
            # The first one's margin is that of its size 5, as published.
            margin = 2 if i == 0 else (size - 1) // 2
            padding = ((margin, margin), (margin, margin))
            convs.append(Conv(width, size, padding=padding, dtype=config.dtype))
            init = initializers.constant(1 / width)
            weight = parameter(self, f"weight_{i}", init, ("norm",), (width,))
            weights.append(weight)
        self.conv, self.weights = convs, weights

    def activations(self, images: jax.Array) -> list[jax.Array]:
        """What each convolution makes of images [B, H, W, 3] in [-1, 1].

        Returns:
            After ReLU, float32 [B, h, w, C] for each.
        """
        x = (images.astype(jnp.float32) - SHIFT) / SCALE
        x = x.astype(self.config.dtype)
        found = []
        for i, conv in enumerate(self.conv):
            if i in (1, 2):
                x = _halve(_max_pool(x))
            x = conv(x)
            x = nn.relu(_halve(x) if i == 0 else x)
            found.append(x.astype(jnp.float32))
        return found

    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Distance float32 [B] of two batches of images [B, H, W, 3] in [-1, 1]."""
        total = jnp.zeros(first.shape[0])
        layers = self.activations(jnp.concatenate([first, second]))
        for x, weight in zip(layers, self.weights, strict=True):
            one, other = jnp.split(unit_channels(x), 2)
            total += jnp.mean(jnp.square(one - other) @ weight, (1, 2))
        return total


def _max_pool(x: jax.Array) -> jax.Array:
    lowest = np.array(-np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "VALID")


def _halve(x: jax.Array) -> jax.Array:
    """Blur with two pixels reflected at each border, and keep every second."""
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    kernel = jnp.broadcast_to(
        jnp.asarray(_BLUR, x.dtype)[:, :, None, None], (3, 3, 1, x.shape[-1])
    )
    return depthwise(padded, kernel, 2, 0)
