"""A moving average of the parameters, kept beside the optimizer's state."""

from typing import Any

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.state import Params
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.step import Batch, Metrics, Update


def start(params: Params, kept: Any) -> dict[str, Any]:
    """What an averaged update keeps before the first step; pure, to be jitted."""
    average = {path: jnp.copy(value) for path, value in flatten(params).items()}
    return {"average": average, "rest": kept}


def averaged(update: Update, decay: float) -> Update:
    """Return `update` with an exponential moving average of what it gives.

    The average's own weight grows from nothing as (1 + n) / (10 + n) until it reaches
    `decay`, so that the initialisation is soon forgotten.
    """

    def follow(
        params: Params, optimizer: Any, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Params, Any, Metrics]:
        params, rest, metrics = update(params, optimizer["rest"], batch, key, step)
        time = step.astype(jnp.float32)
        share = 1.0 - jnp.minimum(decay, (1.0 + time) / (10.0 + time))
        new = flatten(params)
        average = {
            path: old + share * (new[path] - old)
            for path, old in optimizer["average"].items()
        }
        return params, {"average": average, "rest": rest}, metrics

    return follow
