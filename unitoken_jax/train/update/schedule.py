"""Learning rate over steps: linear warm-up, then a cosine or a constant.

The released UniToken code warms up from 0 (the first update changes nothing) over 1 %
of an epoch and follows half a cosine to 0; `end_scale` leaves a floor.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Shape = Literal["cosine", "constant"]
Schedule = Callable[[jax.Array], jax.Array]


def make_schedule(
    peak: float, warmup: int, steps: int, shape: Shape, end_scale: float
) -> Schedule:
    """Return the learning rate as a function of the step (int32 scalar → float32).

    Args:
        peak: the rate at the end of the warm-up.
        warmup: steps of linear growth from 0; 0 starts at the peak.
        steps: the length of the run; the cosine ends there.
        shape: what follows the warm-up.
        end_scale: where the cosine ends, as a fraction of the peak.
    """
    if not 0 <= warmup <= steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit {steps} steps.")

    def schedule(step: jax.Array) -> jax.Array:
        time = jnp.asarray(step, jnp.float32)
        rising = time / max(warmup, 1)
        progress = jnp.clip((time - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        falling = end_scale + (1.0 - end_scale) * cosine
        after = falling if shape == "cosine" else jnp.ones_like(time)
        return peak * jnp.where(time < warmup, rising, after)

    return schedule
