"""Rotary position embedding (Su et al., arXiv 2104.09864), half-split form.

Channel i turns with channel i + H/2, as in Llama's and Chameleon's published
PyTorch weights; weights of the interleaved form (Meta's own) are permuted when
they are converted.
"""

import jax
import jax.numpy as jnp


def rotary_angles(positions: jax.Array, head_dim: int, theta: float) -> jax.Array:
    """Angles by which each position turns each pair of channels.

    Args:
        positions: integers [B, T].
        head_dim: H, even.
        theta: base wavelength in positions (10,000 in the published models).

    Returns:
        float32 radians [B, T, H/2]; pair i turns by position * theta^(-2i/H).

    Raises:
        ValueError: head_dim is odd.
    """
    if head_dim % 2:
        raise ValueError(
            f"rotary embedding turns pairs of channels, head_dim={head_dim} is odd; "
            "choose an even head_dim"
        )
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = 1.0 / (theta**exponents)  # [H/2]
    return positions.astype(jnp.float32)[..., None] * frequencies


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turns the channel pairs of every head, in float32.

    Args:
        x: [B, T, N, H].
        angles: [B, T, H/2] from `rotary_angles`.

    Returns:
        float32 [B, T, N, H].
    """
    cos = jnp.cos(angles)[:, :, None, :]  # [B, T, 1, H/2]
    sin = jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
