"""Weights without a weight file: a hash of each tensor's name and positions."""

import zlib

import numpy as np

SMALL = ("positional_embedding", "cls_token", "pos_embed", "mask_token")
ZERO = ("zero_k_bias", "vocab_usage")


def noise(key, shape):
    """Numbers in [-1, 1], float64."""
    index = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64)
    h = (index * 2654435761 + zlib.crc32(key.encode())) % 2**32
    h ^= h >> np.uint64(16)
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> np.uint64(13)
    h = h * 0xC2B2AE35 % 2**32
    h ^= h >> np.uint64(16)
    return (2 * h.astype(np.float64) / 2**32 - 1).reshape(shape)


def hash_weight(key, shape):
    """The tensor of a published name, float32."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf in ZERO or key.endswith("encoder.pos_embed"):
        return np.zeros(shape, np.float32)
    value = noise(key, shape)
    if leaf in SMALL or "token_embedding" in key:
        value *= 0.05
    elif leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        value = 1 + 0.1 * value
    elif len(shape) >= 2:
        value *= np.sqrt(3 / np.prod(shape[1:]))
    else:
        value *= 0.05
    return value.astype(np.float32)


def hash_images(side=256):
    """Two images [2, side, side, 3] of waves and noise."""
    y, x = np.mgrid[:side, :side]
    images = np.empty((2, side, side, 3))
    for n in range(2):
        for c in range(3):
            wave = np.sin(2 * np.pi * (x + 1 + 11 * n) / (37 + 8 * c))
            wave *= np.cos(2 * np.pi * y / (53 + 5 * c + 7 * n))
            grain = noise(f"image{n}.{c}", (side, side))
            images[n, :, :, c] = 0.6 * wave + 0.3 * grain
    return images.astype(np.float32)
