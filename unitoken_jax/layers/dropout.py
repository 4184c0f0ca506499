"""Dropout as a module, which draws its key from the stream `dropout`."""

import jax
from flax import linen as nn

from unitoken_jax.ops.dropout import dropout


class Dropout(nn.Module):
    """Sets a share of its input to zero while training; no parameters.

    Attributes:
        rate: that share, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """Thins out [..., D]; returns it as it is if `deterministic`."""
        if deterministic or self.rate == 0:
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)
