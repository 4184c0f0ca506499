"""An exponential moving average of the parameters, beside them in the state."""

import dataclasses

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.runtime.pytree import PyTree
from unitoken_jax.train.update.step import Batch, Metrics, Update


def with_ema(update: Update, decay: float) -> Update:
    """Return `update` with an exponential moving average of what it gives.

    The average's own weight grows from nothing as (1 + n) / (10 + n) until it reaches
    `decay`, so that the initialization is soon forgotten.
    """

    def follow(
        state: TrainState, batch: Batch, key: jax.Array, *consulted: PyTree
    ) -> tuple[TrainState, Metrics]:
        after, metrics = update(state, batch, key, *consulted)
        time = state.step.astype(jnp.float32)
        share = 1.0 - jnp.minimum(decay, (1.0 + time) / (10.0 + time))
        ema = jax.tree.map(
            lambda old, new: old + share * (new - old), state.ema, after.params
        )
        return dataclasses.replace(after, ema=ema), metrics

    return follow
