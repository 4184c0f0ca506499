"""Layer and RMS norms with named parameters, computed in float32."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import parameter
from unitoken_jax.ops import normalization


class LayerNorm(nn.Module):
    """Layer normalization; parameters `scale` and `bias` [D].

    Attributes:
        eps: added to the variance.
    """

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [..., D]; the result has x's type."""
        shape = (x.shape[-1],)
        scale = parameter(self, "scale", initializers.ones, ("norm",), shape)
        bias = parameter(self, "bias", initializers.zeros, ("norm",), shape)
        return normalization.layer_norm(x, scale, bias, self.eps).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalization; parameter `scale` [D].

    Attributes:
        eps: added to the mean square.
    """

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [..., D]; the result has x's type."""
        shape = (x.shape[-1],)
        scale = parameter(self, "scale", initializers.ones, ("norm",), shape)
        return normalization.rms_norm(x, scale, self.eps).astype(x.dtype)


class HeadNorm(nn.Module):
    """Chameleon's QK-norm: layer normalization of every head's channels.

    Parameters `scale` and `bias` are [R, H]: R is the model-parallel size the weights
    were trained with, and row r serves heads r N/R to (r + 1) N/R - 1.

    Attributes:
        rows: R; must divide the number of heads.
        eps: added to the variance (1e-5 in the published code, whatever its config).
    """

    rows: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [B, T, N, H]; the result is float32, for the rotation to come."""
        heads, width = x.shape[-2:]
        if heads % self.rows:
            raise ValueError(
                f"QK-norm has {self.rows} rows, which do not divide {heads} heads; "
                "model_parallel_size must divide heads and kv_heads"
            )
        shape = (self.rows, width)
        scale = parameter(self, "scale", initializers.ones, ("norm", "norm"), shape)
        bias = parameter(self, "bias", initializers.zeros, ("norm", "norm"), shape)
        scale, bias = (
            jnp.repeat(rows, heads // self.rows, axis=0) for rows in (scale, bias)
        )  # [N, H]
        return normalization.layer_norm(x, scale, bias, self.eps)


class GroupNorm(nn.Module):
    """Group normalization; parameters `scale` and `bias` of the channel width."""

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalize [B, ..., C] in float32; the result has the dtype of `inputs`."""
        shape = (inputs.shape[-1],)
        scale = parameter(self, "scale", initializers.ones, ("norm",), shape)
        bias = parameter(self, "bias", initializers.zeros, ("norm",), shape)
        return normalization.group_norm(inputs, scale, bias, self.groups, self.epsilon)
