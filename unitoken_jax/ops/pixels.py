"""From stored bytes to network pixels and back; images into patches."""

from typing import Literal

import jax
import jax.numpy as jnp

Rounding = Literal["truncate", "round", "llamagen"]
"""How [-1, 1] becomes bytes: as Chameleon's decoder and Liquid, as UniTok's inference
and rFID, or as LlamaGen's sampler."""


def normalize(pixels: jax.Array) -> jax.Array:
    """Maps bytes 0..255 to float32 in [-1, 1], as SigLIP's processor does.

    Args:
        pixels: uint8, any shape.

    Returns:
        (x / 255 - 0.5) / 0.5 in float32; the compiler's rounding may differ from
        the published processor's by 1.2e-7.
    """
    return (pixels.astype(jnp.float32) / 255.0 - 0.5) / 0.5


def to_bytes(images: jax.Array, rounding: Rounding = "truncate") -> jax.Array:
    """Maps [-1, 1] to bytes.

    Args:
        images: floats, any shape; values outside [-1, 1] are clipped.
        rounding: a published way; "round" makes 128 of what is no number.

    Returns:
        uint8 of the same shape.
    """
    images = images.astype(jnp.float32)
    if rounding == "round":
        scaled = jnp.round((images + 1.0) * 127.5)
        scaled = jnp.where(jnp.isnan(scaled), 128.0, scaled)
        return jnp.clip(scaled, 0.0, 255.0).astype(jnp.uint8)
    if rounding == "llamagen":
        return jnp.clip(127.5 * images + 128.0, 0.0, 255.0).astype(jnp.uint8)
    unit = (jnp.clip(images, -1.0, 1.0) + 1.0) / 2.0
    return (unit * 255.0).astype(jnp.uint8)


def patches(images: jax.Array, size: int) -> jax.Array:
    """Cuts images into square patches, row-major; a remainder is dropped.

    Args:
        images: [B, H, W, 3].
        size: side of a patch in pixels, P.

    Returns:
        [B, (H//P) * (W//P), P, P, 3].
    """
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    images = images[:, : rows * size, : columns * size]
    # [B, H, W, C] → [B, h, p, w, p, C]
    grid = images.reshape(batch, rows, size, columns, size, channels)
    # [B, h, p, w, p, C] → [B, h, w, p, p, C]
    grid = grid.transpose(0, 1, 3, 2, 4, 5)
    # [B, h, w, p, p, C] → [B, h · w, p, p, C]
    return grid.reshape(batch, rows * columns, size, size, channels)
