"""The KV cache: what is appended stands behind what was, in every row and layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.layers.kv_cache import KeyValue, KVCache


def noise(rng, rows, length, layers):
    leading = () if layers is None else (layers,)
    shape = (*leading, rows, length, 2, 4)
    parts = (jnp.asarray(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    return KeyValue(*parts)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(0, 2),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_cache_holds_what_was_appended_in_its_order(lengths, room, layers, seed):
    rng = np.random.default_rng(seed)
    cache = KVCache.empty(2, sum(lengths) + room, (2, 4), "float32", layers=layers)
    parts = [noise(rng, 2, length, layers) for length in lengths]
    valid = [rng.random((2, length)) < 0.7 for length in lengths]
    for part, real in zip(parts, valid, strict=True):
        cache = cache.append(part, jnp.asarray(real))
    assert int(cache.index) == sum(lengths)
    for name in ("key", "value"):
        expected = np.concatenate([getattr(part, name) for part in parts], axis=-3)
        found = getattr(cache.entries, name)
        np.testing.assert_array_equal(found[..., : sum(lengths), :, :], expected)
        assert not found[..., sum(lengths) :, :, :].any()
    np.testing.assert_array_equal(
        cache.valid, np.pad(np.concatenate(valid, axis=1), ((0, 0), (0, room)))
    )


@pytest.mark.parametrize("layers", [None, 2])
def test_appending_in_a_scan_is_appending_one_by_one(layers):
    part = noise(np.random.default_rng(0), 3, 5, layers)
    empty = KVCache.empty(3, 5, (2, 4), "float32", layers=layers)
    steps = jax.tree.map(lambda array: jnp.moveaxis(array, -3, 0), part)

    def step(cache, new):
        new = jax.tree.map(lambda array: jnp.expand_dims(array, -3), new)
        return cache.append(new, jnp.ones((3, 1), bool)), None

    cache, _ = jax.lax.scan(step, empty, steps)
    np.testing.assert_array_equal(cache.entries.key, part.key)
    np.testing.assert_array_equal(cache.entries.value, part.value)
    assert cache.valid.all()


def test_an_empty_cache_has_the_type_asked_for():
    cache = KVCache.empty(1, 2, (3, 4), "bfloat16", layers=5)
    assert cache.entries.key.shape == (5, 1, 2, 3, 4)
    assert cache.entries.key.dtype == jnp.bfloat16
    assert not cache.valid.any()
