"""Whether a state is known to be good, as the steps that were taken say.

The guard judges the loss before an update, so that of the newest state only the next
step knows whether it is of use. A state is good enough to be saved if the step that
made it was accepted and everything in it is finite; that it was good is known when a
step from it, or from what came of it, was accepted.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.state import TrainState, hold
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import PyTree

_TRIES = 10  # batches on which a state is tried


class Soundness:
    """What the judged steps of one start say of its states.

    Attributes:
        first: the step at which it began.
        accepted: the last step that was accepted; None if none was.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.accepted: int | None = None

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note how a step was judged."""
        if not int(metrics["consecutive_skips"]):
            self.accepted = step

    def may_save(self, state: TrainState) -> bool:
        """Say whether a state, whose step was judged, may be saved; all must ask."""
        return self.accepted == int(state.step) and is_finite(state)

    def newest_good(self, steps: Sequence[int]) -> int | None:
        """Return the newest of saved steps that is known to be good.

        What this start has read or written is not, until a step from it was accepted;
        an older one is, as what was saved after it came of such a step.
        """
        bound = self.first if self.accepted is None else self.accepted
        return max((step for step in steps if step < bound), default=None)


@jax.jit
def _all_finite(tree: PyTree) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def is_finite(state: TrainState) -> bool:
    """Say whether what was learned holds neither NaN nor infinity."""
    return bool(processes.fetch(_all_finite(state.learned)))


def tried(
    state: TrainState,
    step: Callable[[TrainState], tuple[TrainState, Mapping[str, jax.Array]]],
) -> tuple[TrainState, bool]:
    """Try a state that no accepted step has made.

    Args:
        state: its buffers are given up.
        step: takes a step with another batch each time; state → (state, metrics). What
            it makes of the state is forgotten.

    Returns:
        The state as it was, and whether a step from it was accepted.
    """
    give_back = hold(state)
    for _ in range(_TRIES):
        state, metrics = step(state)
        if not int(processes.fetch(metrics["consecutive_skips"])):
            return give_back(), True
    return give_back(), False
