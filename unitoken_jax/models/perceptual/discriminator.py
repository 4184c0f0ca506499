"""UniTok's discriminator: five small heads on a frozen DINOv2 (`DinoDiscV2`).

After StyleGAN-T's (arXiv 2301.09515). Images are float [B, H, W, 3] in [-1, 1]. Freeze
`backbone`: only its gradient towards the images is wanted.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Count, Natural
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import GroupNorm
from unitoken_jax.layers.parameter import parameter, xavier_half
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.models.perceptual.dinov2 import Dinov2, Dinov2Config
from unitoken_jax.ops.convolution import convolve_circular
from unitoken_jax.ops.resize import fit_multiple
from unitoken_jax.parallel.rules import constrain

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SCALE = np.float32(0.5) / _DEVIATION
"""Factor from [-1, 1] to ImageNet's normalization, by channel."""
SHIFT = (np.float32(0.5) - _MEAN) / _DEVIATION
"""Added after the factor."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator; the defaults are the published ones.

    Attributes:
        backbone: the frozen network.
        taps: blocks whose outputs the heads see, counted from 0.
        kernel: positions that the heads' second convolution covers.
        groups: groups of the heads' normalizations.
        dtype: type of the heads' computation.
    """

    backbone: Dinov2Config = field(default_factory=Dinov2Config)
    taps: tuple[Natural, ...] = (0, 2, 5, 8, 11)
    kernel: Count = 9
    groups: Count = 32
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses heads on layers that the backbone does not have, and odd groups."""
        if not self.taps or max(self.taps) >= self.backbone.layers:
            raise ValueError(
                f"taps={self.taps} must name layers of the backbone, from 0 to "
                f"{self.backbone.layers - 1}, at least one."
            )
        if self.backbone.hidden % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide backbone.hidden="
                f"{self.backbone.hidden}."
            )


class CircularConv(nn.Module):
    """A convolution along a sequence whose ends meet; parameters `kernel`, `bias`."""

    size: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, T, D], keeping its shape."""
        width = x.shape[-1]
        axes = (None, "conv_in", "conv_out")
        shape = (self.size, width, width)
        kernel = parameter(self, "kernel", xavier_half, axes, shape)
        zeros = initializers.zeros
        bias = parameter(self, "bias", zeros, ("conv_out",), (width,))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        return convolve_circular(x.astype(self.dtype), kernel, bias)


class Head(nn.Module):
    """One head: a map of each position, a residual one of neighbours, a score."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores [B, T, D] as [B, T]."""
        config = self.config

        def activate(x: jax.Array, name: str) -> jax.Array:
            normed = GroupNorm(config.groups, 1e-6, name=name)(x)
            return nn.leaky_relu(normed, 0.2)

        def linear(features: int, name: str) -> Linear:
            return Linear(
                (features,),
                ("conv_in", "conv_out"),
                use_bias=True,
                kernel_init=xavier_half,
                dtype=config.dtype,
                name=name,
            )

        def stay(x: jax.Array) -> jax.Array:
            return constrain(x, "batch", None, "width")

        x = stay(activate(linear(x.shape[-1], "conv_1")(x), "norm_1"))
        conv = CircularConv(config.kernel, config.dtype, name="conv_2")
        x = stay(x + activate(conv(x), "norm_2")) * 0.5**0.5
        return linear(1, "out")(x)[..., 0]


class Discriminator(nn.Module):
    """The discriminator; parameters `backbone` (frozen) and `heads` (stacked)."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Scores images: positive for real, negative for made ones.

        Args:
            images: [B, H, W, 3] in [-1, 1].
            key: random key of how images whose sides are no multiples of the patch are
                fitted, see `ops.resize.fit_multiple`.

        Returns:
            float32 [B, heads · S], one score for each head and patch.
        """
        config = self.config
        images = fit_multiple(images, config.backbone.patch, key)
        images = images * SCALE.astype(images.dtype) + SHIFT.astype(images.dtype)
        layers = Dinov2(config.backbone, name="backbone")(images)["layers"]
        taps = layers[np.array(config.taps)]  # [heads, B, 1 + S, D]
        features = taps[:, :, 1:] + taps[:, :, :1]
        heads = nn.vmap(
            Head,
            in_axes=0,
            axis_size=len(config.taps),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        scores = heads(config, name="heads")(features)  # [heads, B, S]
        # [heads, B, S] → [B, heads, S]
        scores = scores.swapaxes(0, 1).astype(jnp.float32)
        # [B, heads, S] → [B, heads · S]
        return scores.reshape(scores.shape[0], -1)
