"""The guard refuses what is not finite and what jumps, and recovers."""

import jax
import jax.numpy as jnp
import pytest

from unitoken_jax.checkpoint.state import init_guard
from unitoken_jax.train.update import guard

CONFIG = guard.GuardConfig(spike_factor=3.0, limit=4, patience=5)


def _run(values, config=CONFIG):
    """Judge (loss, norm) pairs in turn; return verdicts and the last state."""
    state, verdicts = init_guard(), []
    judge = jax.jit(lambda s, a, b: guard.judge(config, s, a, b))
    for loss, norm in values:
        accept, state = judge(state, jnp.float32(loss), jnp.float32(norm))
        verdicts.append(bool(accept))
    return verdicts, state


def test_accepts_calm_and_counts() -> None:
    verdicts, state = _run([(2.0, 1.0)] * 8)
    assert all(verdicts)
    assert (int(state.accepted), int(state.skipped)) == (8, 0)
    assert float(state.loss) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [(float("nan"), 1.0), (1.0, float("inf"))])
def test_refuses_non_finite_from_the_first_step(bad) -> None:
    verdicts, state = _run([bad, (1.0, 1.0), bad, bad])
    assert verdicts == [False, True, False, False]
    assert (int(state.skipped), int(state.consecutive)) == (3, 2)
    assert float(state.loss) == 1.0


@pytest.mark.parametrize("spike", [(6.5, 1.0), (2.0, 3.5)])
def test_refuses_spikes_once_it_knows_the_level(spike) -> None:
    assert _run([(2.0, 1.0)] * 4 + [spike])[0][-1]
    assert not _run([(2.0, 1.0)] * 5 + [spike])[0][-1]


def test_a_lasting_change_is_accepted_in_the_end() -> None:
    verdicts, _ = _run([(1.0, 1.0)] * 60 + [(1.0, 3.2)] * 10)
    assert not verdicts[60]
    assert verdicts[-1]


def test_a_negative_loss_has_a_bound_too() -> None:
    verdicts, _ = _run([(-1.0, 1.0)] * 6 + [(-0.5, 1.0), (1.5, 1.0)])
    assert verdicts[-2:] == [True, False]


def test_spikes_may_be_switched_off() -> None:
    config = guard.GuardConfig(spike_factor=0, patience=1)
    assert all(_run([(1.0, 1.0)] * 3 + [(1e6, 1e6)], config)[0])


def test_refuses_factors_that_refuse_everything() -> None:
    with pytest.raises(ValueError, match="spike_factor must exceed 1"):
        guard.GuardConfig(spike_factor=0.5)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        guard.GuardConfig(limit=0)
    with pytest.raises(ValueError, match="patience must be 0 or more, not -1"):
        guard.GuardConfig(patience=-1)
    with pytest.raises(ValueError, match="spike_factor must exceed 1"):
        guard.GuardConfig(spike_factor=float("nan"))
