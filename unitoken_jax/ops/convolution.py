"""Convolution and pooling of images laid out [B, H, W, C].

Kernels are [height, width, in / groups, out], the layout that XLA keeps without a copy
on CPU and TPU. Padding is explicit everywhere: the published networks pad symmetrically
where XLA's "SAME" would not.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

Padding: TypeAlias = Sequence[tuple[int, int]]
"""Rows and columns added (before, after) along each spatial axis."""


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
) -> jax.Array:
    """Correlate `images` with `kernel`, as `torch.nn.functional.conv2d` does.

    Args:
        images: [B, H, W, C].
        kernel: [height, width, C / groups, O].
        bias: [O] or None.
        strides: steps along height and width.
        padding: zeros added around height and width.
        groups: number of channel groups; C for a depthwise convolution.

    Returns:
        [B, H', W', O].
    """
    result = lax.conv_general_dilated(
        images,
        kernel,
        window_strides=tuple(strides),
        padding=tuple(padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return result if bias is None else result + bias


def average_pool(
    images: jax.Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """Mean over windows; zeros of the padding do not count in the divisor.

    Args:
        images: [B, H, W, C].
        window: height and width of the window.
        strides: steps along height and width.
        padding: rows and columns around the image.

    Returns:
        [B, H', W', C].
    """

    def window_sum(x: jax.Array) -> jax.Array:
        return lax.reduce_window(
            x,
            jnp.zeros((), x.dtype),
            lax.add,
            (1, *window, 1),
            (1, *strides, 1),
            ((0, 0), *padding, (0, 0)),
        )

    count = window_sum(jnp.ones((1, *images.shape[1:3], 1), images.dtype))
    return window_sum(images) / count
