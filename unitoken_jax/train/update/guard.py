"""Judging a step before it is taken: non-finite values and spikes are skipped.

The judgement runs inside the jitted step. A loss or gradient norm is a spike when it
exceeds `spike_factor` times its running mean over accepted steps. A spike still moves
the mean, by the bound rather than by its value, so that a lasting change of level is
accepted after some steps instead of being refused for ever.
"""

import dataclasses

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.state import GuardState

_DECAY = 0.98  # of the running means, once some 50 steps have been seen


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """`spike_factor` 0 skips non-finite steps only; `limit` consecutive skips stop.

    Spikes are judged after `patience` accepted steps, when the means mean something.
    """

    spike_factor: float = 10.0
    limit: int = 10
    patience: int = 50

    def __post_init__(self) -> None:
        if self.spike_factor != 0 and not self.spike_factor > 1:
            raise ValueError(
                f"spike_factor must exceed 1 (or be 0), not {self.spike_factor}."
            )
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}.")
        if self.patience < 0:
            raise ValueError(f"patience must be 0 or more, not {self.patience}.")


def judge(
    config: GuardConfig, state: GuardState, loss: jax.Array, grad_norm: jax.Array
) -> tuple[jax.Array, GuardState]:
    """Return whether to accept a step with these values, and the next state."""
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    calm = jnp.bool_(True)
    loss_bound = norm_bound = jnp.float32(jnp.inf)
    if config.spike_factor:
        # Losses may be negative (adversarial ones): the bound is a distance above.
        slack = (config.spike_factor - 1.0) * jnp.abs(state.loss)
        known = state.accepted >= config.patience
        loss_bound = jnp.where(known, state.loss + slack, jnp.inf)
        norm_bound = jnp.where(known, config.spike_factor * state.grad_norm, jnp.inf)
        calm = (loss <= loss_bound) & (grad_norm <= norm_bound)
    accept = finite & calm
    count = state.accepted.astype(jnp.float32)
    decay = jnp.minimum(_DECAY, count / (count + 1.0))

    def mean(old: jax.Array, value: jax.Array, bound: jax.Array) -> jax.Array:
        new = decay * old + (1.0 - decay) * jnp.minimum(value, bound)
        return jnp.where(finite, new, old)

    took = accept.astype(jnp.int32)
    return accept, GuardState(
        loss=mean(state.loss, loss, loss_bound),
        grad_norm=mean(state.grad_norm, grad_norm, norm_bound),
        accepted=state.accepted + took,
        skipped=state.skipped + 1 - took,
        consecutive=jnp.where(accept, 0, state.consecutive + 1),
    )
