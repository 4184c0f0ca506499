"""Terms of adversarial training as UniTok has them (arXiv 2502.20321 and its code)."""

import jax
import jax.numpy as jnp


def hinge(real: jax.Array, made: jax.Array) -> jax.Array:
    """Hinge loss of a discriminator's scores; scalar, 0 when it is sure of all."""
    return jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + made))


def consistency(scores: jax.Array, augmented: jax.Array) -> jax.Array:
    """Balanced consistency (arXiv 2002.04724): scores should survive augmentation.

    The gradient flows to both sides, as in the published code.
    """
    return jnp.mean(jnp.square(augmented - scores))


def balance(
    distance: jax.Array, deceit: jax.Array, least: float, most: float
) -> jax.Array:
    """VQGAN's adaptive weight (arXiv 2012.09841, equation 7).

    Args:
        distance: gradient of the reconstruction terms at the last layer.
        deceit: gradient of the adversarial term there.
        least: lower bound of the weight.
        most: upper bound.

    Returns:
        Scalar, without gradient.
    """
    ratio = jnp.linalg.norm(distance) / (jnp.linalg.norm(deceit) + 1e-6)
    return jax.lax.stop_gradient(jnp.clip(ratio, least, most))
