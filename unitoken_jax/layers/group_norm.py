"""Group normalisation with named, logically partitioned parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.ops.group_norm import group_norm


class GroupNorm(nn.Module):
    """Group normalisation; parameters `scale` and `bias` of the channel width."""

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalise [B, ..., C] in float32; the result has the dtype of `inputs`."""
        shape = (inputs.shape[-1],)

        def parameter(name: str, init: initializers.Initializer) -> jax.Array:
            boxed = nn.with_logical_partitioning(init, ("norm",))
            return self.param(name, boxed, shape, jnp.float32)

        return group_norm(
            inputs,
            parameter("scale", initializers.ones),
            parameter("bias", initializers.zeros),
            self.groups,
            self.epsilon,
        )
