"""Inception-v3 of 2015 as the FID uses it (arXiv 1512.00567, 1706.08500).

The network that pytorch-fid and torch-fidelity ported from TensorFlow, with its
peculiarities: average pooling does not count its padding, the last block pools by
maximum, there are 1008 classes, and images are resized from their corners.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn import initializers

from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.ops.convolution import average_pool, convolve
from unitoken_jax.ops.resize import antialiased, bilinear_tensorflow

CLASSES = 1008
_SIDE = 299
_CENTERED = ((1, 1), (1, 1))


@dataclass(frozen=True)
class InceptionConfig:
    """How pictures reach the network, which has one shape only.

    Attributes:
        resize: to 299 pixels. "tensorflow" is that of the FID as published and of
            torch-fidelity, "bilinear" antialiases as torchmetrics does, "bicubic" as
            clean-fid does (arXiv 2104.11222).
    """

    resize: Literal["tensorflow", "bilinear", "bicubic"] = "tensorflow"


class ConvNorm(nn.Module):
    """Convolution, normalization by stored statistics, ReLU.

    Parameters `kernel` [h, w, I, O], `scale`, `bias`, `mean` and `variance` [O].

    Attributes:
        features: output channels O.
        size: height and width of the kernel.
        stride: steps along both axes.
        same: whether zeros keep the size, else whole windows only.
    """

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, H, W, I] to [B, H', W', O]."""
        shape = (*self.size, x.shape[-1], self.features)
        init = initializers.lecun_normal()
        axes = (None, None, "conv_in", "conv_out")
        kernel = parameter(self, "kernel", init, axes, shape)

        def vector(name: str, init: initializers.Initializer) -> jax.Array:
            return parameter(self, name, init, ("norm",), (self.features,))

        scale = vector("scale", initializers.ones)
        bias = vector("bias", initializers.zeros)
        mean = vector("mean", initializers.zeros)
        variance = vector("variance", initializers.ones)
        margins = [
            (side // 2, side // 2) if self.same else (0, 0) for side in self.size
        ]
        strides = (self.stride, self.stride)
        x = convolve(x, kernel, strides=strides, padding=margins)
        scale = scale * lax.rsqrt(variance + 1e-3)
        return nn.relu((x - mean) * scale + bias)


class Branch(NamedTuple):
    """One path through a block.

    Attributes:
        convs: name, features and kernel of each convolution, in order.
        tails: convolutions of the same input whose results are concatenated.
        pool: pooling in front, "average", "max" or "".
        stride: steps of the last convolution (or of the pooling without one); 2 takes
            whole windows only.
    """

    convs: tuple[tuple[str, int, tuple[int, int]], ...] = ()
    tails: tuple[tuple[str, int, tuple[int, int]], ...] = ()
    pool: str = ""
    stride: int = 1


_ONE, _WIDE, _TALL, _THREE = (1, 1), (1, 7), (7, 1), (3, 3)


def _block_a(pooled: int) -> tuple[Branch, ...]:
    return (
        Branch((("branch1x1", 64, _ONE),)),
        Branch((("branch5x5_1", 48, _ONE), ("branch5x5_2", 64, (5, 5)))),
        Branch(
            (
                ("branch3x3dbl_1", 64, _ONE),
                ("branch3x3dbl_2", 96, _THREE),
                ("branch3x3dbl_3", 96, _THREE),
            )
        ),
        Branch((("branch_pool", pooled, _ONE),), pool="average"),
    )


def _block_b() -> tuple[Branch, ...]:
    return (
        Branch((("branch3x3", 384, _THREE),), stride=2),
        Branch(
            (
                ("branch3x3dbl_1", 64, _ONE),
                ("branch3x3dbl_2", 96, _THREE),
                ("branch3x3dbl_3", 96, _THREE),
            ),
            stride=2,
        ),
        Branch(pool="max", stride=2),
    )


def _block_c(inner: int) -> tuple[Branch, ...]:
    return (
        Branch((("branch1x1", 192, _ONE),)),
        Branch(
            (
                ("branch7x7_1", inner, _ONE),
                ("branch7x7_2", inner, _WIDE),
                ("branch7x7_3", 192, _TALL),
            )
        ),
        Branch(
            (
                ("branch7x7dbl_1", inner, _ONE),
                ("branch7x7dbl_2", inner, _TALL),
                ("branch7x7dbl_3", inner, _WIDE),
                ("branch7x7dbl_4", inner, _TALL),
                ("branch7x7dbl_5", 192, _WIDE),
            )
        ),
        Branch((("branch_pool", 192, _ONE),), pool="average"),
    )


def _block_d() -> tuple[Branch, ...]:
    return (
        Branch((("branch3x3_1", 192, _ONE), ("branch3x3_2", 320, _THREE)), stride=2),
        Branch(
            (
                ("branch7x7x3_1", 192, _ONE),
                ("branch7x7x3_2", 192, _WIDE),
                ("branch7x7x3_3", 192, _TALL),
                ("branch7x7x3_4", 192, _THREE),
            ),
            stride=2,
        ),
        Branch(pool="max", stride=2),
    )


def _block_e(pool: str) -> tuple[Branch, ...]:
    return (
        Branch((("branch1x1", 320, _ONE),)),
        Branch(
            (("branch3x3_1", 384, _ONE),),
            (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))),
        ),
        Branch(
            (("branch3x3dbl_1", 448, _ONE), ("branch3x3dbl_2", 384, _THREE)),
            (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
        ),
        Branch((("branch_pool", 192, _ONE),), pool=pool),
    )


BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("max"),
}
"""The blocks in order, under their published names."""


class Block(nn.Module):
    """Branches side by side, their results concatenated."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, H, W, C]."""
        return jnp.concatenate([self._follow(x, part) for part in self.branches], -1)

    def _follow(self, x: jax.Array, branch: Branch) -> jax.Array:
        if branch.pool == "average":
            x = average_pool(x, (3, 3), (1, 1), _CENTERED)
        elif branch.pool == "max":
            x = _max_pool(x, branch.stride)
        for i, (name, features, size) in enumerate(branch.convs):
            stride = branch.stride if i == len(branch.convs) - 1 else 1
            x = ConvNorm(features, size, stride, stride == 1, name=name)(x)
        if not branch.tails:
            return x
        ends = [
            ConvNorm(width, size, name=name)(x) for name, width, size in branch.tails
        ]
        return jnp.concatenate(ends, -1)


class InceptionV3(nn.Module):
    """The network; parameters under their published names, `fc` for the classes."""

    config: InceptionConfig = InceptionConfig()

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Features of pictures.

        Args:
            images: uint8 [B, H, W, 3]; they are resized to 299 pixels.

        Returns:
            float32 `features` [B, 2048], the FID's, and `logits` [B, 1008] without the
            bias of the classes, the inception score's.
        """
        x = images.astype(jnp.float32)
        if self.config.resize == "tensorflow":
            x = bilinear_tensorflow(x, _SIDE, _SIDE)
        else:
            x = antialiased(x, _SIDE, _SIDE, self.config.resize)
        x = (x - 128) / 128
        x = ConvNorm(32, _THREE, 2, same=False, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, _THREE, same=False, name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, _THREE, name="Conv2d_2b_3x3")(x)
        x = _max_pool(x, 2)
        x = ConvNorm(80, name="Conv2d_3b_1x1")(x)
        x = ConvNorm(192, _THREE, same=False, name="Conv2d_4a_3x3")(x)
        x = _max_pool(x, 2)
        for name, branches in BLOCKS.items():
            x = Block(branches, name=name)(x)
        features = x.mean((1, 2))
        classes = Linear((CLASSES,), ("embed", None), name="fc")
        # The published head has a bias; the inception score leaves it out.
        parameter(self, "fc_bias", initializers.zeros, ("norm",), (CLASSES,))
        return {"features": features, "logits": classes(features)}


def _max_pool(x: jax.Array, stride: int) -> jax.Array:
    """Maximum of 3×3 windows; with stride 1 centred on every pixel."""
    margins = _CENTERED if stride == 1 else ((0, 0), (0, 0))
    padding = ((0, 0), *margins, (0, 0))
    lowest = np.array(-np.inf, x.dtype)
    steps = (1, stride, stride, 1)
    return lax.reduce_window(x, lowest, lax.max, (1, 3, 3, 1), steps, padding)
