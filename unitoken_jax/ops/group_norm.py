"""Group normalization over the last axis (arXiv 1803.08494)."""

import jax
import jax.numpy as jnp


def group_norm(
    inputs: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    groups: int,
    epsilon: float,
) -> jax.Array:
    """Normalize each sample over all positions and the channels of one group.

    The statistics are taken per channel first, in float32, so that the large array is
    never reshaped into groups; the variance is of centred values.

    Args:
        inputs: [B, ..., C] with any number of position axes.
        scale: [C].
        bias: [C].
        groups: number of groups; must divide C.
        epsilon: added to the variance.

    Returns:
        [B, ..., C] in the dtype of `inputs`.

    Raises:
        ValueError: if `groups` does not divide the number of channels.
    """
    channels = inputs.shape[-1]
    if channels % groups:
        raise ValueError(
            f"group normalization of {channels} channels cannot use {groups} groups; "
            "choose a number of groups that divides every width of the network"
        )
    positions = tuple(range(1, inputs.ndim - 1))

    def group_mean(x: jax.Array) -> jax.Array:
        # [B, ..., C] -> [B, C] -> [B, G] -> [B, 1.., C]
        mean = x.mean(positions).reshape(-1, groups, channels // groups).mean(-1)
        mean = jnp.repeat(mean, channels // groups, axis=-1)
        return jnp.expand_dims(mean, positions)

    x = inputs.astype(jnp.float32)
    x = x - group_mean(x)
    inverse = jax.lax.rsqrt(group_mean(jnp.square(x)) + epsilon)
    return (x * (inverse * scale) + bias).astype(inputs.dtype)
