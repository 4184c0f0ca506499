"""Dropout: how much is dropped, that nothing repeats, and what the gradient is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.ops.dropout import dropout, mix

SHAPE = (8, 128, 96)


def dropped(seed: int, rate: float) -> np.ndarray:
    return np.asarray(dropout(jax.random.key(seed), jnp.ones(SHAPE), rate) == 0)


@settings(deadline=None, max_examples=20)  # every rate is a program of its own
@given(st.floats(0.01, 0.95), st.integers(0, 2**31 - 1))
def test_the_share_is_the_rate(rate: float, seed: int):
    share = dropped(seed, rate).mean()
    deviation = (rate * (1 - rate) / np.prod(SHAPE)) ** 0.5
    assert abs(share - rate) < 6 * deviation


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("distance", [1, 2, 5])
def test_neighbors_know_nothing_of_each_other(axis: int, distance: int):
    noise = dropped(0, 0.5) - 0.5
    shifted = np.roll(noise, distance, axis)
    assert abs((noise * shifted).mean() / 0.25) < 6 / np.prod(SHAPE) ** 0.5


def test_keys_give_other_noise():
    first, second = dropped(0, 0.5), dropped(1, 0.5)
    assert abs((first == second).mean() - 0.5) < 6 * 0.5 / np.prod(SHAPE) ** 0.5


def test_every_channel_is_dropped_as_often():
    """16,384 positions a channel."""
    x = jnp.ones((16, 1024, 64))
    shares = np.asarray(dropout(jax.random.key(3), x, 0.3) == 0).mean((0, 1))
    assert np.abs(shares - 0.3).max() < 5 * (0.21 / 16_384) ** 0.5


def test_a_flipped_bit_flips_half_of_the_others():
    words = jax.random.bits(jax.random.key(0), (4096,), jnp.uint32)
    for bit in range(32):
        changed = np.asarray(mix(words) ^ mix(words ^ np.uint32(1 << bit)))
        flips = (changed[:, None] >> np.arange(32)) & 1
        assert np.abs(flips.mean(0) - 0.5).max() < 0.05, bit


def test_what_is_kept_is_scaled_and_so_is_its_gradient():
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.bfloat16)
    key = jax.random.key(1)
    y, pull = jax.vjp(lambda x: dropout(key, x, 0.25), x)
    assert y.dtype == x.dtype
    kept = np.asarray(y != 0)
    np.testing.assert_array_equal(
        np.asarray(y)[kept], np.asarray(x * jnp.bfloat16(4 / 3))[kept]
    )
    (slope,) = pull(jnp.ones_like(y))
    np.testing.assert_array_equal(
        np.asarray(slope, np.float32),
        np.where(kept, np.float32(jnp.bfloat16(4 / 3)), 0),
    )


def test_devices_do_not_change_it():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("rows"))
    x = jnp.ones(SHAPE)
    run = jax.jit(lambda x: dropout(jax.random.key(0), x, 0.5))
    np.testing.assert_array_equal(run(x), run(jax.device_put(x, rows)))


def test_no_rate_is_no_noise():
    x = jnp.ones(SHAPE)
    assert dropout(jax.random.key(0), x, 0.0) is x
    with pytest.raises(ValueError, match=r"in \[0, 1\), not 1"):
        dropout(jax.random.key(0), x, 1.0)
