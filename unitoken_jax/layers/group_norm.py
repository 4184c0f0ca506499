"""Group normalization with named, logically partitioned parameters."""

import jax
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import parameter
from unitoken_jax.ops.group_norm import group_norm


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
        return group_norm(inputs, scale, bias, self.groups, self.epsilon)
