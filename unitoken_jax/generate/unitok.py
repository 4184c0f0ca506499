"""Pictures to codes of several codebooks and back, by UniTok's tokenizer."""

import functools

import jax
import jax.numpy as jnp

from unitoken_jax.generate.decode import Params, call
from unitoken_jax.models.unitok import UniTok
from unitoken_jax.ops import pixels


@functools.partial(jax.jit, static_argnames="model")
def encode_pictures(model: UniTok, params: Params, pictures: jax.Array) -> jax.Array:
    """Code pictures, uint8 [B, H, W, 3], to int32 [B, h, w, K]."""
    codes = call(model, params, "encode", pixels.normalise(pictures))
    rows, columns = (side // model.config.vision.factor for side in pictures.shape[1:3])
    return codes.reshape(len(pictures), rows, columns, -1)


@functools.partial(jax.jit, static_argnames="model")
def decode_pictures(model: UniTok, params: Params, codes: jax.Array) -> jax.Array:
    """Decode codes, int32 [B, h, w, K], to uint8 [B, H, W, 3]."""
    rows, *grid, codebooks = codes.shape
    flat = jnp.reshape(codes, (rows, -1, codebooks))
    images = call(model, params, "decode", flat, tuple(grid))
    return pixels.to_bytes(images)
