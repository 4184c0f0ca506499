"""Convolution and pooling of images laid out [B, H, W, C].

Kernels are [height, width, in / groups, out], the layout that XLA keeps without a copy
on CPU and TPU. Padding is explicit everywhere: the published networks pad symmetrically
where XLA's "SAME" would not.
"""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
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
            np.zeros((), x.dtype),  # a constant, or the sum has no gradient
            lax.add,
            (1, *window, 1),
            (1, *strides, 1),
            ((0, 0), *padding, (0, 0)),
        )

    count = window_sum(jnp.ones((1, *images.shape[1:3], 1), images.dtype))
    return window_sum(images) / count


def depthwise(
    images: jax.Array, kernel: jax.Array, stride: int = 1, margin: int = 1
) -> jax.Array:
    """Convolve every channel with its own kernel.

    XLA's grouped convolution is a hundred times slower on CPU than a sum of shifted
    images, which therefore stands in for it there; other devices convolve.

    Args:
        images: [B, H, W, C].
        kernel: [k, k, 1, C].
        stride: steps along both axes.
        margin: zeros around both axes.

    Returns:
        [B, H', W', C].
    """

    def grouped(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(
            images,
            kernel,
            strides=(stride, stride),
            padding=((margin, margin),) * 2,
            groups=images.shape[-1],
        )

    def shifted(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return _shifted(images, kernel, stride, margin)

    return lax.platform_dependent(images, kernel, cpu=shifted, default=grouped)


def convolve_circular(
    inputs: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
    """Convolve along a sequence whose ends meet.

    Args:
        inputs: [B, T, I].
        kernel: [k, I, O], k odd.
        bias: [O].

    Returns:
        [B, T, O].
    """
    size, length = kernel.shape[0], inputs.shape[1]
    margin = size // 2
    wrapped = jnp.pad(inputs, ((0, 0), (margin, margin), (0, 0)), mode="wrap")
    # One product for each place of the kernel: several convolutions mapped as one would
    # be a grouped one, whose gradient is an order of magnitude slower on CPUs.
    total = bias.astype(jnp.float32)
    for place in range(size):
        total += jnp.matmul(
            wrapped[:, place : place + length],
            kernel[place],
            preferred_element_type=jnp.float32,
        )
    return total.astype(inputs.dtype)


def _shift_and_add(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    height, width = (side - size + 1 for side in padded.shape[1:3])
    total = jnp.zeros((), padded.dtype)
    for row in range(size):
        for column in range(size):
            part = padded[:, row : row + height : stride]
            part = part[:, :, column : column + width : stride]
            total += part * kernel[row, column, 0]
    return total


def _pad(images: jax.Array, margin: int) -> jax.Array:
    return jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(
    images: jax.Array, kernel: jax.Array, stride: int, margin: int
) -> jax.Array:
    return _shift_and_add(_pad(images, margin), kernel, stride)


def _shifted_forward(
    images: jax.Array, kernel: jax.Array, stride: int, margin: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted(images, kernel, stride, margin), (images, kernel)


def _shifted_backward(
    stride: int, margin: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    size = kernel.shape[0]
    # Towards the images: the gradient, spread out to the stride, under the kernel
    # turned round.
    before = size - 1 - margin
    spread = []
    for side, count in zip(images.shape[1:3], gradient.shape[1:3], strict=True):
        after = side + size - 1 - before - ((count - 1) * stride + 1)
        spread.append((before, after, stride - 1))
    padding = ((0, 0, 0), *spread, (0, 0, 0))
    spaced = lax.pad(gradient, np.zeros((), gradient.dtype), padding)
    by_images = _shift_and_add(spaced, kernel[::-1, ::-1], 1)

    reach = [(count - 1) * stride + 1 for count in gradient.shape[1:3]]

    def add(
        total: jax.Array, sample: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        padded, part = sample

        def tap(place: jax.Array) -> jax.Array:
            start = (place // size, place % size, 0)
            window = lax.dynamic_slice(padded, start, (*reach, part.shape[-1]))
            return jnp.sum(window[::stride, ::stride] * part, (0, 1))

        return total + lax.map(tap, jnp.arange(size * size)), None

    # Sample by sample: one fits the cache, the nine sums over a batch do not.
    start = jnp.zeros((size * size, kernel.shape[-1]), kernel.dtype)
    total, _ = lax.scan(add, start, (_pad(images, margin), gradient))
    # [k · k, C] → [k, k, 1, C]
    return by_images, total.reshape(kernel.shape)


_shifted.defvjp(_shifted_forward, _shifted_backward)
