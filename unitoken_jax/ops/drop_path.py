"""Stochastic depth (arXiv 1603.09382): a residual branch left out for some samples."""

import jax
import jax.numpy as jnp


def drop_path(key: jax.Array, change: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Drop the branch of each sample with probability `rate`; scale up the others.

    Args:
        key: random key.
        change: [B, ...], what the branch adds.
        rate: in [0, 1); may be traced.

    Returns:
        [B, ...], zero or `change` / (1 - rate).
    """
    keep = 1 - jnp.asarray(rate, jnp.float32)
    shape = (change.shape[0],) + (1,) * (change.ndim - 1)
    factor = jax.random.bernoulli(key, keep, shape).astype(jnp.float32) / keep
    return change * factor.astype(change.dtype)
