"""What every image tokenizer offers: images to a grid of codes, and back."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from unitoken_jax.ops import pixels


class ImageTokenizer(nn.Module):
    """A network between images and grids of codes; its modules inherit from it.

    A grid is int32 [B, h, w] of a tokenizer whose codes are words of a vocabulary, one
    at each place, and [B, h, w, K] of one with K codebooks.
    """

    @property
    def num_codebooks(self) -> int | None:
        """Codebooks K; None where codes are words of a vocabulary."""
        raise NotImplementedError

    @property
    def codebook_size(self) -> int:
        """Codes in each codebook."""
        raise NotImplementedError

    def encode_grid(self, images: jax.Array) -> jax.Array:
        """Code images float [B, H, W, 3] in [-1, 1], to a grid."""
        raise NotImplementedError

    def decode_grid(self, codes: jax.Array) -> jax.Array:
        """Decode a grid, to images [B, H, W, 3] that may leave [-1, 1] a little."""
        raise NotImplementedError


@functools.partial(jax.jit, static_argnames="tokenizer")
def encode_images(
    tokenizer: ImageTokenizer, params: Mapping[str, object], images: jax.Array
) -> jax.Array:
    """Code images, uint8 [B, H, W, 3], to int32 [B, h, w] or [B, h, w, K]."""
    normalized = pixels.normalize(images)
    codes: Any = tokenizer.apply({"params": params}, normalized, method="encode_grid")
    return codes


@functools.partial(jax.jit, static_argnames="tokenizer")
def decode_codes(
    tokenizer: ImageTokenizer, params: Mapping[str, object], codes: jax.Array
) -> jax.Array:
    """Decode codes, int32 [B, h, w] or [B, h, w, K], to uint8 [B, H, W, 3]."""
    decoded: Any = tokenizer.apply({"params": params}, codes, method="decode_grid")
    return pixels.to_bytes(decoded)
