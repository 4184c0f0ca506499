"""Every named layout goes there and back bit by bit and says its published shape."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.convert import layouts

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)
SIZES = st.integers(1, 5)


def numbers(shape, dtype, seed=0):
    """Random bits that are finite numbers, all different in most places."""
    values = np.random.default_rng(seed).normal(size=shape)
    return values.astype(dtype)


def same_bits(left, right):
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def cases(draw):
    """(layout, shapes of ours) of a random kind and size."""
    a, b, c, d = (draw(SIZES) for _ in range(4))
    size = 2 * draw(SIZES)
    kinds = [
        (layouts.SAME, [(a, b, c)]),
        (layouts.SAME, [()]),
        (layouts.LINEAR, [(a, b)]),
        (layouts.CONV, [(a, b, c, d)]),
        (layouts.CONV1D, [(a, b, c)]),
        (layouts.DEPTHWISE, [(a, b, 1, c)]),
        (layouts.POINTWISE, [(a, b)]),
        (layouts.HEADS_IN, [(a, b, c)]),
        (layouts.HEADS_OUT, [(a, b, c)]),
        (layouts.HEADS_BIAS, [(a, b)]),
        (layouts.transpose(1, 2, 0), [(a, b, c)]),
        (layouts.squeeze(0, 1), [(a,)]),
        (layouts.expand(0), [(1, a, b)]),
        (layouts.split(layouts.HEADS_IN), [(a, b, c), (a, d, c), (a, d, c)]),
        (layouts.split(layouts.HEADS_BIAS), [(b, c), (d, c), (d, c)]),
        (layouts.split(layouts.LINEAR), [(a, b), (a, c)]),
        (layouts.repeated_rows(a * b), [(a, c)]),
        (layouts.rotary_halves(size), [(a * size, b)]),
        (layouts.rotary_halves(size, -1), [(a, size)]),
        (
            layouts.chain(layouts.rotary_halves(size), layouts.HEADS_IN),
            [(a, b, size)],
        ),
        (
            layouts.split(layouts.chain(layouts.rotary_halves(size), layouts.HEADS_IN)),
            [(a, b, size), (a, c, size)],
        ),
    ]
    return draw(st.sampled_from(kinds))


@given(st.data(), st.sampled_from(DTYPES))
def test_round_trip_is_bit_exact(data, dtype):
    layout, shapes = cases(data.draw)
    ours = [numbers(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    theirs = layout.to_theirs(ours)
    assert theirs.shape == layout.published_shape(shapes)
    back = layout.to_ours(theirs, shapes)
    assert len(back) == len(ours)
    for one, other in zip(ours, back, strict=True):
        assert same_bits(one, other)
    assert same_bits(layout.to_theirs(back), theirs)


def test_linear_and_heads_agree_with_the_product():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(6, 4)), rng.normal(size=4)
    (kernel,) = layouts.LINEAR.to_ours(weight, [(4, 6)])
    np.testing.assert_allclose(x @ kernel, weight @ x)
    (heads,) = layouts.HEADS_IN.to_ours(weight, [(4, 3, 2)])
    np.testing.assert_allclose(
        np.einsum("d,dnh->nh", x, heads), (weight @ x).reshape(3, 2)
    )
    y = rng.normal(size=4)
    (out,) = layouts.HEADS_OUT.to_ours(weight, [(2, 2, 6)])
    np.testing.assert_allclose(np.einsum("nh,nhd->d", y.reshape(2, 2), out), weight @ y)


def test_split_takes_the_parts_in_order():
    packed = np.arange(6.0).reshape(6, 1)
    parts = layouts.split(layouts.LINEAR).to_ours(packed, [(1, 2)] * 3)
    assert [part.ravel().tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]


def test_rotary_halves_moves_pairs_apart():
    (halves,) = layouts.rotary_halves(6).to_ours(np.arange(12.0), [(12,)])
    assert halves.tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_repeated_rows_keep_one_of_each_and_refuse_different_ones():
    layout = layouts.repeated_rows(4)
    rows = np.repeat(np.arange(6.0).reshape(2, 3), 2, axis=0)
    (kept,) = layout.to_ours(rows, [(2, 3)])
    assert kept.tolist() == [[0, 1, 2], [3, 4, 5]]
    rows[1, 0] = 7
    with pytest.raises(layouts.LayoutError, match="model_parallel_size=4"):
        layout.to_ours(rows, [(2, 3)])


@pytest.mark.parametrize("shape", [(), (3,), (300, 700), (256, 256), (2, 300, 300)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_contiguous_keeps_numbers_and_shape(shape, dtype):
    array = numbers(shape, dtype).T
    moved = layouts.contiguous(array)
    assert moved.flags.c_contiguous
    assert same_bits(moved, array)
