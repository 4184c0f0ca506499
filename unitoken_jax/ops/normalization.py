"""Layer and root-mean-square normalization with exact variance, in float32.

The variance is the mean of squared deviations, as in PyTorch: the faster
E[x²] − E[x]² loses digits in float32 and moves every activation that follows.
"""

import jax
import jax.numpy as jnp


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
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + eps)
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
