"""Convolutions of images [B, H, W, C] with named, logically partitioned parameters."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import (
    Initializer,
    parameter,
    uniform_bias,
    uniform_fan_in,
)
from unitoken_jax.ops.convolution import Padding, convolve, depthwise
from unitoken_jax.parallel.rules import constrain


class Conv(nn.Module):
    """A two-dimensional convolution; parameters `kernel` [k, k, I, O] and `bias` [O].

    Attributes:
        features: output channels O.
        size: side of the square kernel.
        stride: steps along both axes.
        padding: zeros around each axis; "centred" adds (size - 1) / 2 on all sides.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias; None means PyTorch's default.
        dtype: computation dtype.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: Padding | Literal["centred"] = "centred"
    kernel_init: Initializer = uniform_fan_in
    bias_init: Initializer | None = None
    dtype: jnp.dtype | str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolve [B, H, W, I] to [B, H', W', O]."""
        inputs = images.shape[-1]
        shape = (self.size, self.size, inputs, self.features)
        bias_init = self.bias_init or uniform_bias(self.size**2 * inputs)
        axes = (None, None, "conv_in", "conv_out")
        kernel = parameter(self, "kernel", self.kernel_init, axes, shape)
        bias = parameter(self, "bias", bias_init, ("conv_out",), (self.features,))
        margin = (self.size - 1) // 2
        padding = ((margin, margin),) * 2
        result = convolve(
            images.astype(self.dtype),
            _gather(kernel.astype(self.dtype)),
            bias.astype(self.dtype),
            strides=(self.stride, self.stride),
            padding=padding if self.padding == "centred" else self.padding,
        )
        return _stay(result)


class DepthwiseConv(nn.Module):
    """One kernel a channel; parameters `kernel` [k, k, 1, C] and `bias` [C].

    Attributes:
        size: side of the square kernel.
        stride: steps along both axes.
        kernel_init: initializer of the kernel.
        dtype: computation dtype.
    """

    size: int = 3
    stride: int = 1
    kernel_init: Initializer = uniform_fan_in
    dtype: jnp.dtype | str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolve [B, H, W, C] to [B, H', W', C], padded by (size - 1) / 2."""
        channels = images.shape[-1]
        axes = (None, None, None, "conv_out")
        shape = (self.size, self.size, 1, channels)
        kernel = parameter(self, "kernel", self.kernel_init, axes, shape)
        zeros = initializers.zeros
        bias = parameter(self, "bias", zeros, ("conv_out",), (channels,))
        result = depthwise(
            images.astype(self.dtype),
            _gather(kernel.astype(self.dtype)),
            self.stride,
            (self.size - 1) // 2,
        )
        return _stay(result + bias.astype(self.dtype))


def _gather(kernel: jax.Array) -> jax.Array:
    """Have a whole kernel on every device.

    With a divided one a depthwise convolution is divided by channels, and the pictures
    go between all devices before and after it.
    """
    return constrain(kernel, None, None, None, None)


def _stay(images: jax.Array) -> jax.Array:
    """Keep images on the devices that have them."""
    return constrain(images, "batch", None, None, None)
