"""Learned position tables at other grid sizes, interpolated as PyTorch does."""

import jax
import jax.numpy as jnp
import numpy as np


def bicubic_matrix(source: int, target: int, scale: float | None = None) -> np.ndarray:
    """Weights of PyTorch's bicubic interpolation along one axis.

    Cubic convolution with a = -0.75, half-pixel centres, no antialiasing and
    the border repeated: `interpolate(mode="bicubic", align_corners=False)`.

    Args:
        source: samples given.
        target: samples wanted.
        scale: PyTorch's `scale_factor`, where it is not target / source.

    Returns:
        float32 [target, source], rows sum to 1.
    """
    a = -0.75
    step = source / target if scale is None else 1 / scale
    centers = (np.arange(target) + 0.5) * step - 0.5
    base = np.floor(centers).astype(np.int64)
    matrix = np.zeros((target, source))
    for offset in range(-1, 3):
        distance = np.abs(centers - (base + offset))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        weight = np.where(distance <= 1, near, far)
        index = np.clip(base + offset, 0, source - 1)
        np.add.at(matrix, (np.arange(target), index), weight)
    return matrix.astype(np.float32)


def resize_grid(
    table: jax.Array,
    source: tuple[int, int],
    target: tuple[int, int],
    surplus: float = 0.0,
) -> jax.Array:
    """Interpolates a learned table of positions to another grid, bicubically.

    Args:
        table: [h * w, D], row-major over the source grid.
        source: (h, w).
        target: (h', w').
        surplus: added to the target's sides when computing the scale, as DINOv2 does
            (0.1), which moves every sample a little.

    Returns:
        [h' * w', D] in table's type; the table itself where the grids are equal.
    """
    if source == target:
        return table
    rows, columns = (
        jnp.asarray(bicubic_matrix(given, wanted, (wanted + surplus) / given))
        for given, wanted in zip(source, target, strict=True)
    )
    rows, columns = rows.astype(table.dtype), columns.astype(table.dtype)
    # [H · W, D] → [H, W, D]
    grid = table.reshape(*source, table.shape[-1])
    # [h, H] · [w, W] · [H, W, D] → [h, w, D]
    grid = jnp.einsum("ph,qw,hwd->pqd", rows, columns, grid)
    # [h, w, D] → [h · w, D]
    return grid.reshape(target[0] * target[1], table.shape[-1])
