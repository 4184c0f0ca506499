"""The codebooks of a quantizer as parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import parameter
from unitoken_jax.ops.quantization import Quantized, Quantizer


class Codebooks(nn.Module):
    """Codes and their published statistic; parameters `codebooks`, `usage`.

    `usage` [C, V] is the moving histogram of codes that UniTok saves beside each
    codebook. No loss reads it, so its gradient is zero: freeze it in training.

    Attributes:
        count: number of codebooks C.
        size: codes in a codebook V.
        width: channels of a code E.
        quantizer: how latents become codes.
    """

    count: int
    size: int
    width: int
    quantizer: Quantizer

    def setup(self) -> None:
        """Codes start uniform in ±width^(-1/2) / 36, as UniTok's do."""
        bound = self.width**-0.5 / 36

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (self.count, self.size, self.width)
        axes = (None, "code", "embed")
        self.codebooks = parameter(self, "codebooks", init, axes, shape)
        self.usage = parameter(
            self, "usage", initializers.zeros, (None, "code"), shape[:2]
        )

    def __call__(self, latents: jax.Array) -> Quantized:
        """Quantizes latents [B, T, D], in float32."""
        return self.quantizer(latents, self.codebooks)

    def codes(self, latents: jax.Array) -> jax.Array:
        """Codes int32 [B, T, C] of latents [B, T, D]."""
        return self.quantizer.codes(latents, self.codebooks)

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Vectors [B, T, D] of codes [B, T, C]."""
        return self.quantizer.lookup(codes, self.codebooks)
