"""Rotary position embedding (Su et al., arXiv 2104.09864), half-split form.

Channel i turns with channel i + H/2, as in Llama's and Chameleon's published
PyTorch weights; weights of the interleaved form (Meta's own) are permuted when
they are converted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
    """What a position does to each pair of channels, float32 [B, T, H/2].

    Cosine and sine of an angle, or zeros for a position whose channels vanish.
    """

    cos: jax.Array
    sin: jax.Array


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


def grid_rotation(
    positions: jax.Array, side: int, head_dim: int, theta: float
) -> Rotation:
    """LlamaGen's rotation of an image behind one prefix token (arXiv 2406.06525).

    The first half of the pairs turns with the row, the second with the column. The
    prefix has a row of zeros in the published table: its query and key vanish, so that
    all that follows attends to it with the score 0.

    Args:
        positions: integers [B, T]; 0 is the prefix, 1 + j the j-th token of the image.
        side: tokens along one side of the image.
        head_dim: H, a multiple of 4.
        theta: base wavelength in tokens.

    Raises:
        ValueError: head_dim is no multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f"a rotation by row and column halves the pairs of channels, which "
            f"head_dim={head_dim} does not allow; choose a multiple of 4"
        )
    row, column = jnp.divmod(positions - 1, side)
    angles = jnp.concatenate(
        [rotary_angles(place, head_dim // 2, theta) for place in (row, column)], -1
    )
    real = (positions > 0)[..., None]
    return Rotation(
        jnp.where(real, jnp.cos(angles), 0.0), jnp.where(real, jnp.sin(angles), 0.0)
    )


def rotate(x: jax.Array, angles: jax.Array | Rotation) -> jax.Array:
    """Turns the channel pairs of every head, in float32.

    Args:
        x: [B, T, N, H].
        angles: [B, T, H/2] from `rotary_angles`, or a `Rotation`.

    Returns:
        float32 [B, T, N, H].
    """
    if not isinstance(angles, Rotation):
        angles = Rotation(jnp.cos(angles), jnp.sin(angles))
    cos, sin = (part[:, :, None, :] for part in angles)  # [B, T, 1, H/2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
