"""Adversarial training as UniTok has it (arXiv 2502.20321 and its code).

The terms of its losses, and what its discriminator sees: images blurred at first, and
augmented differentiably after arXiv 2006.10738, in UniTok's strengths. Images are float
[B, H, W, C] in [-1, 1].
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def hinge(real: jax.Array, made: jax.Array) -> jax.Array:
    """Hinge loss of a discriminator's scores; scalar, 0 when it is sure of all."""
    return jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + made))


def consistency(scores: jax.Array, augmented: jax.Array) -> jax.Array:
    """Balanced consistency (arXiv 2002.04724): scores should survive augmentation.

    The gradient flows to both sides, as in the published code.
    """
    return jnp.mean(jnp.square(augmented - scores))


def balance(
    distance: jax.Array, deceit: jax.Array, least: float, most: float
) -> jax.Array:
    """VQGAN's adaptive weight (arXiv 2012.09841, equation 7).

    Args:
        distance: gradient of the reconstruction terms at the last layer.
        deceit: gradient of the adversarial term there.
        least: lower bound of the weight.
        most: upper bound.

    Returns:
        Scalar, without gradient.
    """
    ratio = jnp.linalg.norm(distance) / (jnp.linalg.norm(deceit) + 1e-6)
    return jax.lax.stop_gradient(jnp.clip(ratio, least, most))


def blur(images: jax.Array, fade: jax.Array | float) -> jax.Array:
    """Blur that fades out while the discriminator warms up.

    σ = √(H / 2) · fade pixels; the kernel is 2^-(i / σ)², cut at ⌊3 σ⌋ and reflected at
    the borders. The published code recomputes its kernel only when ⌊3 σ⌋ changes; this
    follows `fade` at every step.

    Args:
        images: [B, H, W, C].
        fade: 1 at the start of the warm-up, 0 from its end on; may be traced.

    Returns:
        [B, H, W, C].
    """
    height, width = images.shape[1:3]
    sigma = jnp.asarray(fade, jnp.float32) * math.sqrt(height / 2)
    reach = math.floor(3 * math.sqrt(height / 2))
    distance = np.arange(-reach, reach + 1).astype(np.float32)
    exponent = jnp.square(distance / jnp.maximum(sigma, 1e-3))
    inside = np.abs(distance) <= jnp.floor(3 * sigma)
    weights = jnp.where(inside, jnp.exp2(-exponent), 0)  # [2 reach + 1]
    weights = (weights / weights.sum()).astype(images.dtype)
    # [h, H] · [w, W] · [B, H, W, C] → [B, h, w, C], of the same size
    return jnp.einsum(
        "ph,qw,bhwc->bpqc",
        _reflected(weights, height),
        _reflected(weights, width),
        images,
        precision=jax.lax.Precision.HIGHEST,
    )


def augment(
    key: jax.Array,
    images: jax.Array,
    *,
    shift: float = 0.125,
    brightness: float = 0.5,
    saturation: float = 1.0,
    contrast: float = 0.5,
    cut: float = 0.2,
) -> jax.Array:
    """Translate, recolor and cut out a square, each sample differently.

    Args:
        key: random key.
        images: [B, H, W, C].
        shift: largest translation as a share of the side; what comes in is zero.
        brightness: largest change added.
        saturation: largest change of the factor 1 on deviations from the pixel's mean.
        contrast: largest change of the factor 1 on deviations from the image's mean.
        cut: side of the square set to zero, as a share of the image's.

    Returns:
        [B, H, W, C].
    """
    keys = jax.random.split(key, 5)
    images = _translate(keys[0], images, shift)

    def change(key: jax.Array, largest: float) -> jax.Array:
        shape = (images.shape[0], 1, 1, 1)
        return jax.random.uniform(key, shape, images.dtype, -largest, largest)

    images = images + change(keys[1], brightness)
    gray = images.mean(3, keepdims=True)
    images = (images - gray) * (1 + change(keys[2], saturation)) + gray
    middle = images.mean((1, 2, 3), keepdims=True)
    images = (images - middle) * (1 + change(keys[3], contrast)) + middle
    return images * _cutout(keys[4], images.shape, cut).astype(images.dtype)


def _reflected(weights: jax.Array, side: int) -> jax.Array:
    """Matrix [side, side] of a convolution whose input is reflected at its ends."""
    reach = weights.shape[0] // 2
    places = np.pad(np.arange(side), reach, mode="reflect")
    source = places[np.arange(side)[:, None] + np.arange(weights.shape[0])]
    rows = np.arange(side)[:, None]
    return jnp.zeros((side, side), weights.dtype).at[rows, source].add(weights)


def _translate(key: jax.Array, images: jax.Array, share: float) -> jax.Array:
    batch, height, width, channels = images.shape
    margins = round(share * height), round(share * width)
    padded = jnp.pad(images, ((0, 0), *((m, m) for m in margins), (0, 0)))
    starts = [
        jax.random.randint(part, (batch,), 0, 2 * margin + 1)
        for part, margin in zip(jax.random.split(key), margins, strict=True)
    ]

    def take(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        size = (height, width, channels)
        return jax.lax.dynamic_slice(image, (row, column, 0), size)

    return jax.vmap(take)(padded, *starts)


def _cutout(key: jax.Array, shape: tuple[int, ...], share: float) -> jax.Array:
    """Mask bool [B, H, W, 1], False in a square that may reach over the border."""
    inside = jnp.ones((shape[0], 1, 1, 1), bool)
    for axis, part in zip((1, 2), jax.random.split(key), strict=True):
        side = shape[axis]
        length = round(share * side)
        last = side + (1 - length % 2)
        start = jax.random.randint(part, (shape[0],), 0, last) - length // 2
        place = jnp.arange(side)[None] - start[:, None]
        within = (place >= 0) & (place < length)  # [B, side]
        inside &= jnp.expand_dims(within, (2 if axis == 1 else 1, 3))
    return ~inside
