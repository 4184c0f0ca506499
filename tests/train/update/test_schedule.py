"""The schedule against figures measured from the released code."""

import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.train.update.schedule import make_schedule


def test_released_recipe() -> None:
    """The learning rates the released code printed over an epoch of 100,000 steps."""
    schedule = make_schedule(1e-3, 1000, 100_000, "cosine", 0.0)
    epochs = np.array([0.0, 0.001, 0.005, 0.01, 0.1, 0.5, 0.9, 1.0])
    expected = [0.0, 1e-4, 5e-4, 1e-3, 9.797e-4, 5.079e-4, 2.496e-5, 0.0]
    rates = schedule(jnp.asarray(epochs * 100_000, jnp.int32))
    np.testing.assert_allclose(rates, expected, rtol=2e-4, atol=1e-9)


def test_floor_and_constant() -> None:
    cosine = make_schedule(2.0, 0, 10, "cosine", 0.25)
    assert float(cosine(jnp.int32(0))) == 2.0
    assert float(cosine(jnp.int32(10))) == pytest.approx(0.5)
    assert float(cosine(jnp.int32(50))) == pytest.approx(0.5)
    constant = make_schedule(2.0, 4, 10, "constant", 0.0)
    rates = [float(constant(jnp.int32(step))) for step in (0, 2, 4, 9)]
    assert rates == [0.0, 1.0, 2.0, 2.0]


def test_refuses_a_warm_up_longer_than_the_run() -> None:
    with pytest.raises(ValueError, match="warm-up of 11 steps does not fit 10"):
        make_schedule(1.0, 11, 10, "cosine", 0.0)
