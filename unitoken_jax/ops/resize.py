"""Resizing of images laid out [B, H, W, C], as the published PyTorch code does it."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.ops.positions import bicubic_matrix


def double_nearest(images: jax.Array) -> jax.Array:
    """Repeat every pixel twice along both axes.

    Args:
        images: [B, H, W, C].

    Returns:
        [B, 2 H, 2 W, C].
    """
    batch, height, width, channels = images.shape
    # A broadcast and a reshape: its gradient is one sum, without a gather.
    repeated = jnp.broadcast_to(
        images[:, :, None, :, None], (batch, height, 2, width, 2, channels)
    )
    # [B, H, 2, W, 2, C] → [B, 2 H, 2 W, C]
    return repeated.reshape(batch, 2 * height, 2 * width, channels)


def area(images: jax.Array, height: int, width: int) -> jax.Array:
    """Mean over the pixels that each new one touches (`interpolate(mode="area")`).

    Args:
        images: [B, H, W, C].
        height: rows of the result.
        width: columns of the result.
    """
    rows = _area_matrix(images.shape[1], height)
    return _resample(images, rows, _area_matrix(images.shape[2], width))


def bicubic(images: jax.Array, height: int, width: int) -> jax.Array:
    """Cubic convolution without antialiasing; arguments as `area`."""
    rows = bicubic_matrix(images.shape[1], height)
    return _resample(images, rows, bicubic_matrix(images.shape[2], width))


def bilinear_tensorflow(images: jax.Array, height: int, width: int) -> jax.Array:
    """TensorFlow 1's bilinear resizing, whose pixels lie at their upper left corners.

    The Inception network of the FID was published with it. Arguments as `area`.
    """
    rows = _corner_matrix(images.shape[1], height)
    return _resample(images, rows, _corner_matrix(images.shape[2], width))


def antialiased(
    images: jax.Array, height: int, width: int, method: Literal["bilinear", "bicubic"]
) -> jax.Array:
    """Resize as Pillow does on float pixels: the filter widens where pixels shrink.

    Args:
        images: bytes as floats in [0, 255], [B, H, W, C].
        height: rows of the result.
        width: columns of the result.
        method: the filter; bicubic overshoots, so its result is clipped.
    """
    shape = (images.shape[0], height, width, images.shape[3])
    kind = "linear" if method == "bilinear" else "cubic"
    resized = jax.image.resize(
        images, shape, kind, antialias=True, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.clip(resized, 0, 255)


def fit_multiple(images: jax.Array, multiple: int, key: jax.Array | None) -> jax.Array:
    """Shrink images to sides that a patch size divides, as UniTok's discriminator does.

    Images with neither side divisible are cropped at random (one window for the whole
    batch) or averaged down, by the flip of a coin; others are interpolated bicubically.

    Args:
        images: [B, H, W, C].
        multiple: what divides the sides of the result, in pixels.
        key: random key of the coin and the crop; None always averages.

    Returns:
        [B, H - H % multiple, W - W % multiple, C].
    """
    batch, height, width, channels = images.shape
    target = height - height % multiple, width - width % multiple
    if target == (height, width):
        return images
    if target[0] == height or target[1] == width:
        return bicubic(images, *target)
    if key is None:
        return area(images, *target)
    coin, row_key, column_key = jax.random.split(key, 3)

    def crop(images: jax.Array) -> jax.Array:
        row = jax.random.randint(row_key, (), 0, height - target[0] + 1)
        column = jax.random.randint(column_key, (), 0, width - target[1] + 1)
        start = (0, row, column, 0)
        return jax.lax.dynamic_slice(images, start, (batch, *target, channels))

    cropped = jax.random.bernoulli(coin)
    return jax.lax.cond(cropped, crop, lambda images: area(images, *target), images)


def _resample(images: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Weighted sums [h, H] of rows and [w, W] of columns."""
    # [h, H] · [w, W] · [B, H, W, C] → [B, h, w, C]
    return jnp.einsum(
        "ph,qw,bhwc->bpqc",
        jnp.asarray(rows, images.dtype),
        jnp.asarray(columns, images.dtype),
        images,
        precision=jax.lax.Precision.HIGHEST,
    )


def _area_matrix(source: int, target: int) -> np.ndarray:
    places = np.arange(target)
    start = places * source // target
    end = -((places + 1) * source // -target)  # rounded up
    pixels = np.arange(source)
    inside = (pixels >= start[:, None]) & (pixels < end[:, None])
    return inside / inside.sum(1, keepdims=True)


def _corner_matrix(source: int, target: int) -> np.ndarray:
    places = np.arange(target) * (source / target)
    lower = np.minimum(np.floor(places).astype(np.int64), source - 1)
    matrix = np.zeros((target, source))
    indices = np.arange(target)
    matrix[indices, lower] = 1 - (places - lower)
    matrix[indices, np.minimum(lower + 1, source - 1)] += places - lower
    return matrix
