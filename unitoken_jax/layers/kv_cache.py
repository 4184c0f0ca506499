"""Keys and values of earlier positions: what decoding keeps, and how it grows.

A cache has one write index for all its rows. Prompts of different lengths are padded on
the left, so that the next position of every row stands at the same place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class KeyValue(NamedTuple):
    """Keys and values [B, S, K, H] of one layer, or [L, B, S, K, H] of all."""

    key: jax.Array
    value: jax.Array


@struct.dataclass
class KVCache:
    """Keys and values of the positions seen so far, in one layer or in L stacked ones.

    Attributes:
        entries: [B, S, K, H] or [L, B, S, K, H]; keys are rotated.
        valid: bool [B, S]; False for padding and for what is not yet written.
        index: int32 scalar, the next place to write, the same for every row.
    """

    entries: KeyValue
    valid: jax.Array
    index: jax.Array

    @classmethod
    def empty(
        cls,
        batch: int,
        length: int,
        heads: tuple[int, int],
        dtype: str,
        *,
        layers: int | None = None,
    ) -> "KVCache":
        """Return a cache without any position.

        Args:
            batch: rows B.
            length: positions S that it has room for.
            heads: key and value heads K, and the width of a head H.
            dtype: type of keys and values.
            layers: how many layers L stand on the leading axis; None has no such axis.
        """
        leading = () if layers is None else (layers,)
        zeros = jnp.zeros((*leading, batch, length, *heads), dtype)
        return cls(
            entries=KeyValue(zeros, zeros),
            valid=jnp.zeros((batch, length), bool),
            index=jnp.zeros((), jnp.int32),
        )

    def append(self, new: KeyValue, valid: jax.Array) -> "KVCache":
        """Return the cache with T more positions in every row and layer.

        One write serves all layers: none of them copies the cache. The caller sees to
        it that index + T fits the cache.

        Args:
            new: [B, T, K, H] or [L, B, T, K, H], as `entries`.
            valid: bool [B, T]; False on padding, which nothing ever attends to.
        """

        def write(old: jax.Array, part: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(old, part, self.index, axis=-3)

        return KVCache(
            entries=KeyValue(*map(write, self.entries, new)),
            valid=jax.lax.dynamic_update_slice(self.valid, valid, (0, self.index)),
            index=self.index + valid.shape[1],
        )
