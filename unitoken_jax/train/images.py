"""Sheets of pictures that show, during training, what a model does."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from unitoken_jax.checkpoint.state import Params
from unitoken_jax.models.system import System
from unitoken_jax.ops import pixels
from unitoken_jax.runtime import processes

_COLUMNS = 8


def reconstructions(
    system: System,
) -> Callable[[Params, Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that draws a batch's pictures above their reconstructions.

    Args:
        system: a tokenizer, with the methods `encode` and `decode`.
    """

    @jax.jit
    def reconstruct(params: Params, images: jax.Array) -> jax.Array:
        apply: Any = functools.partial(system.module.apply, {"params": params})
        codes = apply(pixels.normalize(images), method="encode")
        return pixels.to_bytes(apply(codes, method="decode"))

    def draw(params: Params, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = batch["image"][:_COLUMNS]  # uint8 [B, H, W, 3]
        decoded = processes.fetch(reconstruct(params, images))
        rows = [np.concatenate(list(row), axis=1) for row in (images, decoded)]
        return {"reconstructions": np.concatenate(rows, axis=0)}

    return draw
