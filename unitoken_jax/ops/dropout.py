"""Dropout with cheap noise: a random word a position, hashed over the channels.

Threefry for every element takes longer on a TPU's vector unit than the matrix product
whose result it thins out, and makes most of its code. Here threefry draws one word for
each position, and a mixing function spreads it over the channels. The noise is a
function of the key and of the place in the array alone, on however many devices.
"""

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 divided by the golden ratio
_WORDS = 2**32


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Sets a share of an array to zero and scales up the rest.

    Args:
        key: random key.
        x: [..., D].
        rate: share that is dropped, in [0, 1).

    Returns:
        As x: zero, or x / (1 - rate).

    Raises:
        ValueError: a rate outside its range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate is in [0, 1), not {rate}")
    if rate == 0:
        return x
    *places, width = x.shape
    words = jax.random.bits(key, tuple(places), jnp.uint32)
    channels = jnp.arange(width, dtype=jnp.uint32) * _GOLDEN
    noise = mix(words[..., None] ^ channels)
    kept = noise >= np.uint32(round(rate * _WORDS))
    scale = jnp.asarray(1 / (1 - rate), x.dtype)
    return jnp.where(kept, x * scale, jnp.zeros((), x.dtype))


def mix(words: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which every bit depends on every other.

    `lowbias32` of Wellons's Hash Prospector: flipping one bit of the input flips each
    bit of the output about half of the time.

    Args:
        words: uint32 of any shape.
    """
    words = (words ^ (words >> 16)) * np.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * np.uint32(0x846CA68B)
    return words ^ (words >> 16)


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
