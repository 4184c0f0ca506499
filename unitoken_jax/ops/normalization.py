"""Normalization of layers, groups, root mean squares and lengths, in float32.

The variance is the mean of squared deviations, as in PyTorch: the faster
E[x²] − E[x]² loses digits in float32 and moves every activation that follows.
"""

import jax
import jax.numpy as jnp

EPSILON = 1e-12
"""Smallest norm that a vector is divided by, as in `torch.nn.functional.normalize`."""


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    """Normalizes the last axis to mean 0 and (biased) variance 1, then scales.

    Args:
        x: [..., D], any float type.
        scale: broadcastable against x, usually [D].
        bias: as scale.
        eps: added to the variance.

    Returns:
        float32 array of x's shape.
    """
    x = x.astype(jnp.float32)
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    normed = centered * jax.lax.rsqrt(variance + eps)
    return normed * scale.astype(jnp.float32) + bias.astype(jnp.float32)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Divides by the root mean square of the last axis, then scales.

    Args:
        x: [..., D], any float type.
        scale: [D].
        eps: added to the mean square.

    Returns:
        float32 array of x's shape.
    """
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + eps) * scale.astype(jnp.float32)


def l2_norm(vectors: jax.Array, added: float = 0.0) -> jax.Array:
    """Length of vectors [..., E], as [..., 1].

    Args:
        vectors: [..., E].
        added: to the sum of squares, which keeps the gradient finite at zero.
    """
    square = jnp.sum(jnp.square(vectors), -1, keepdims=True)
    return jnp.sqrt(square + added)


def l2_normalize(vectors: jax.Array, added: float | None = None) -> jax.Array:
    """Scale vectors [..., E] to length one; a zero vector keeps a zero gradient.

    Args:
        vectors: [..., E].
        added: to the sum of squares; None bounds the length by `EPSILON` instead.
    """
    square = jnp.sum(jnp.square(vectors), -1, keepdims=True)
    bounded = jnp.maximum(square, EPSILON**2) if added is None else square + added
    return vectors * jax.lax.rsqrt(bounded)


def group_norm(
    inputs: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    groups: int,
    epsilon: float,
) -> jax.Array:
    """Normalize each sample over all positions and the channels of one group.

    The statistics are taken per channel first, in float32, so that the large array is
    never reshaped into groups; the variance is of centred values.

    Args:
        inputs: [B, ..., C] with any number of position axes.
        scale: [C].
        bias: [C].
        groups: number of groups; must divide C.
        epsilon: added to the variance.

    Returns:
        [B, ..., C] in the dtype of `inputs`.

    Raises:
        ValueError: if `groups` does not divide the number of channels.
    """
    channels = inputs.shape[-1]
    if channels % groups:
        raise ValueError(
            f"group normalization of {channels} channels cannot use {groups} groups; "
            "choose a number of groups that divides every width of the network"
        )
    positions = tuple(range(1, inputs.ndim - 1))

    def group_mean(x: jax.Array) -> jax.Array:
        # [B, ..., C] -> [B, C] -> [B, G] -> [B, 1.., C]
        mean = x.mean(positions).reshape(-1, groups, channels // groups).mean(-1)
        mean = jnp.repeat(mean, channels // groups, axis=-1)
        return jnp.expand_dims(mean, positions)

    x = inputs.astype(jnp.float32)
    x = x - group_mean(x)
    inverse = jax.lax.rsqrt(group_mean(jnp.square(x)) + epsilon)
    return (x * (inverse * scale) + bias).astype(inputs.dtype)
