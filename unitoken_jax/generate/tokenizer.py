"""Pictures to codes and back, by either tokenizer."""

import functools

import jax

from unitoken_jax.generate.decode import Params, call
from unitoken_jax.models.unitok import UniTok
from unitoken_jax.models.vqgan import VQGAN
from unitoken_jax.ops import pixels

Tokenizer = VQGAN | UniTok
"""Codes of a VQGAN are [B, h, w], those of UniTok's K codebooks [B, h, w, K]."""


@functools.partial(jax.jit, static_argnames="model")
def encode_pictures(model: Tokenizer, params: Params, pictures: jax.Array) -> jax.Array:
    """Code pictures, uint8 [B, H, W, 3], to int32 [B, h, w] or [B, h, w, K]."""
    codes = call(model, params, "encode", pixels.normalize(pictures))
    if isinstance(model, VQGAN):
        return codes
    rows, columns = (side // model.config.vision.factor for side in pictures.shape[1:3])
    return codes.reshape(len(pictures), rows, columns, -1)


@functools.partial(jax.jit, static_argnames="model")
def decode_pictures(model: Tokenizer, params: Params, codes: jax.Array) -> jax.Array:
    """Decode codes, int32 [B, h, w] or [B, h, w, K], to uint8 [B, H, W, 3]."""
    if isinstance(model, VQGAN):
        return pixels.to_bytes(call(model, params, "decode", codes))
    batch, rows, columns, codebooks = codes.shape
    flat = codes.reshape(batch, rows * columns, codebooks)
    return pixels.to_bytes(call(model, params, "decode", flat, (rows, columns)))
