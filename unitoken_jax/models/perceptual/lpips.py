"""LPIPS with VGG16 (arXiv 1801.03924): perceptual distance of images in [-1, 1]."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.convolution import Conv
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.ops.normalization import l2_norm

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
"""Images are (x - SHIFT) / SCALE to the network, by channel."""


@dataclass(frozen=True)
class LpipsConfig:
    """Shape of the network; the defaults are VGG16's convolutions.

    Attributes:
        widths: channels of each slice; a slice but the first begins by max-pooling.
        depths: convolutions of each slice; the last one's activations are compared.
        dtype: type of the computation.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    dtype: Dtype = "float32"


class Lpips(nn.Module):
    """The distance; parameters `slice_{i}_conv_{j}` and `weight_{i}` [C]."""

    config: LpipsConfig

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Distance float32 [B] of two batches of images [B, H, W, 3] in [-1, 1]."""
        config = self.config
        # Side by side, so that each pair stays on its device.
        both = jnp.stack([first, second], 1).astype(jnp.float32)  # [B, 2, H, W, 3]
        # [B, 2, H, W, 3] → [2 B, H, W, 3]
        x = ((both - SHIFT) / SCALE).reshape(-1, *first.shape[1:])
        total = jnp.zeros(first.shape[0])
        stages = zip(config.widths, config.depths, strict=True)
        for i, (width, depth) in enumerate(stages):
            if i > 0:
                x = _max_pool(x)
            for j in range(depth):
                name = f"slice_{i}_conv_{j}"
                x = nn.relu(Conv(width, dtype=config.dtype, name=name)(x))
            init = initializers.constant(1 / width)
            weight = parameter(self, f"weight_{i}", init, ("norm",), (width,))
            # [2 B, h, w, C] → [B, 2, h, w, C]
            units = unit_channels(x.astype(jnp.float32)).reshape(-1, 2, *x.shape[1:])
            one, other = units[:, 0], units[:, 1]
            total += jnp.mean(jnp.square(one - other) @ weight, (1, 2))
        return total


def unit_channels(x: jax.Array) -> jax.Array:
    """Scale the channels of every pixel to length one, with the published epsilons.

    1e-9 keeps the gradient finite where nothing is active; the published code of the
    shift-tolerant LPIPS has not got it.
    """
    return x / (l2_norm(x, added=1e-9) + 1e-10)


def _max_pool(x: jax.Array) -> jax.Array:
    lowest = np.array(-np.inf, x.dtype)
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, lowest, jax.lax.max, window, window, "VALID")
