"""A batch in chunks gives what the whole batch gives, in the same order."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.ops.chunks import chunked_map, join, split


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 6))
def test_rows_come_back_in_their_order(rows, chunks):
    array = np.arange(2 * rows).reshape(rows, 2)
    parts = split(jnp.asarray(array), chunks)
    assert rows % parts.shape[0] == 0
    assert parts.shape[0] <= chunks
    np.testing.assert_array_equal(join(parts), array)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(lambda s: 0 in s),
    st.integers(1, 6),
)
def test_rows_without_elements_are_dealt_out_too(shape, chunks):
    array = jnp.zeros(shape)
    parts = split(array, chunks)
    assert parts.shape[0] * parts.shape[1] == shape[0]
    assert parts.shape[2:] == tuple(shape[1:])
    assert join(parts).shape == array.shape


def test_values_and_gradients_are_those_of_the_whole_batch():
    keys = jax.random.split(jax.random.key(0), 3)
    first, second = (jax.random.normal(key, (6, 5)) for key in keys[:2])
    kernel = jax.random.normal(keys[2], (5, 3))

    def loss(kernel, first, second, chunks):
        def distance(one, other):
            return jnp.sum(jnp.square(jnp.tanh(one @ kernel) - other[:, :3]), -1)

        each = chunked_map(distance, chunks, first, second)
        return jnp.sum(each * jnp.arange(6.0)), each

    take = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
    expected = take(kernel, first, second, 1)
    for chunks in (2, 3, 4, 6):
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(
                ours, theirs, rtol=1e-5, atol=1e-5
            ),
            take(kernel, first, second, chunks),
            expected,
        )


def test_a_gradient_keeps_the_inputs_of_the_portions_alone():
    rows, kernel = jnp.ones((64, 32)), jnp.ones((32, 2048))

    def peak(chunks):
        def network(x):
            for _ in range(4):
                x = jnp.tanh(x @ kernel) @ kernel.T  # 2048 wide within
            return x

        loss = jax.jit(jax.grad(lambda x: chunked_map(network, chunks, x).sum()))
        return loss.lower(rows).compile().memory_analysis().temp_size_in_bytes

    assert peak(8) < peak(1) / 3
