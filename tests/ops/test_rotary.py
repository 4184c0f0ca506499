"""Rotary embedding: known values, relative positions, half-split order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops.rotary import grid_rotation, rotary_angles, rotate


def test_pairs_are_split_in_halves():
    angles = rotary_angles(jnp.array([[1]]), head_dim=4, theta=100.0)
    np.testing.assert_allclose(angles, [[[1.0, 0.1]]], rtol=1e-6)
    turned = rotate(jnp.array([[[[1.0, 0.0, 0.0, 1.0]]]]), angles)[0, 0, 0]
    expected = [np.cos(1), -np.sin(0.1), np.sin(1), np.cos(0.1)]
    np.testing.assert_allclose(turned, expected, rtol=1e-6)


def test_scores_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def score(at, to):
        turned = [
            rotate(x, rotary_angles(jnp.array([[p]]), 16, 10_000.0))
            for x, p in ((query, at), (key, to))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(8, 3), abs=1e-3)


def test_position_zero_changes_nothing_and_the_result_is_float32():
    x = jax.random.normal(jax.random.key(1), (1, 1, 2, 8)).astype(jnp.bfloat16)
    turned = rotate(x, rotary_angles(jnp.zeros((1, 1), jnp.int32), 8, 10_000.0))
    assert turned.dtype == jnp.float32
    np.testing.assert_array_equal(turned, x.astype(jnp.float32))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="head_dim=5 is odd"):
        rotary_angles(jnp.zeros((1, 1), jnp.int32), 5, 10_000.0)


def test_a_grid_turns_by_row_and_column_and_its_prefix_vanishes():
    positions = jnp.array([[0, 1, 2, 4, 6]])  # on a grid of side 3
    rotation = grid_rotation(positions, side=3, head_dim=8, theta=100.0)
    angles = [[0, 0, 0, 0], [0, 0, 1, 0.1], [1, 0.1, 0, 0], [1, 0.1, 2, 0.2]]
    np.testing.assert_allclose(rotation.cos[0, 1:], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(rotation.sin[0, 1:], np.sin(angles), atol=1e-6)
    turned = rotate(jax.random.normal(jax.random.key(0), (2, 5, 3, 8)), rotation)
    np.testing.assert_array_equal(turned[:, 0], 0)
    assert jnp.all(turned[:, 1:] != 0)


def test_a_grid_needs_pairs_for_both_of_its_axes():
    with pytest.raises(ValueError, match="head_dim=6 does not allow"):
        grid_rotation(jnp.zeros((1, 1), jnp.int32), 3, 6, 10_000.0)
