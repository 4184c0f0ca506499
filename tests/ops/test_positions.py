"""Interpolated position tables: PyTorch's bicubic weights."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.ops.positions import bicubic_matrix, resize_grid


def test_doubling_has_the_known_weights():
    # Cubic convolution with a = -0.75 at distances 0.25, 0.75, 1.25 and 1.75.
    inner = bicubic_matrix(4, 8)[3]
    expected = [-0.03515625, 0.26171875, 0.87890625, -0.10546875]
    np.testing.assert_allclose(np.sort(inner), np.sort(expected), atol=1e-7)
    np.testing.assert_allclose(inner[1], 0.87890625, atol=1e-7)


@given(source=st.integers(1, 9), target=st.integers(1, 20))
def test_constants_and_mirrors_are_kept(source, target):
    matrix = bicubic_matrix(source, target)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-6)


def test_grids_are_separable_and_equal_grids_untouched():
    table = jnp.arange(12.0).reshape(6, 2)
    assert resize_grid(table, (2, 3), (2, 3)) is table
    resized = resize_grid(table, (2, 3), (4, 5)).reshape(4, 5, 2)
    expected = np.einsum(
        "ph,qw,hwd->pqd",
        bicubic_matrix(2, 4),
        bicubic_matrix(3, 5),
        np.asarray(table).reshape(2, 3, 2),
    )
    np.testing.assert_allclose(resized, expected, atol=1e-5)
