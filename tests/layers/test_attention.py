"""The attention layer: what it adds to the op, and that its cache means the same."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from tests.models.random_weights import random_weights
from unitoken_jax.layers.attention import Attention
from unitoken_jax.layers.kv_cache import KeyValue
from unitoken_jax.ops.attention import attention
from unitoken_jax.ops.rotary import rotary_angles, rotate
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

X = np.random.default_rng(0).standard_normal((2, 6, 8), np.float32)


def weights(layer, **arguments):
    init = jax.eval_shape(
        lambda key: layer.init(key, X, **arguments), jax.random.key(0)
    )
    return random_weights(init)


def run(layer, params, x, **arguments):
    return jax.jit(lambda params, x: layer.apply(params, x, **arguments))(params, x)


def test_grouped_heads_rotated_and_projected():
    layer = Attention(heads=4, kv_heads=2, head_dim=4, use_bias=True)
    params = weights(layer)
    angles = rotary_angles(jnp.array([range(6)] * 2), 4, 100.0)
    output, kept = run(layer, params, X, angles=angles, causal=True)
    maps = params["params"]
    query, key, value = (
        np.einsum("btd,dnh->btnh", X, maps[name]["kernel"]) + maps[name]["bias"]
        for name in ("query", "key", "value")
    )
    query, key = rotate(query, angles), rotate(key, angles)
    context = attention(query, key, jnp.asarray(value), causal=True)
    expected = jnp.einsum("btnh,nhd->btd", context, maps["out"]["kernel"])
    np.testing.assert_allclose(output, expected + maps["out"]["bias"], atol=1e-5)
    np.testing.assert_allclose(kept.key, key, atol=1e-6)


def test_a_source_is_attended_to_instead():
    layer = Attention(heads=2, kv_heads=2, head_dim=4)
    params = weights(layer)
    probe = X[:, :1]
    output, kept = run(layer, params, probe, source=X)
    assert (output.shape, kept.key.shape) == ((2, 1, 8), (2, 6, 2, 4))


def test_a_cache_continues_the_row():
    layer = Attention(heads=2, kv_heads=1, head_dim=4, norm_rows=1)
    params = weights(layer)
    angles = rotary_angles(jnp.array([range(6)] * 2), 4, 100.0)
    whole, kept = run(layer, params, X, angles=angles, causal=True)
    rest, _ = run(
        layer,
        params,
        X[:, 4:],
        angles=angles[:, 4:],
        cache=KeyValue(kept.key[:, :4], kept.value[:, :4]),
        valid=(jnp.ones((2, 2), bool), jnp.ones((2, 4), bool)),
    )
    np.testing.assert_allclose(rest, whole[:, 4:], atol=1e-5)


@pytest.mark.parametrize(
    ("kv_heads", "backend"), [(4, "xla"), (2, "xla"), (4, "splash")]
)
def test_rows_divided_over_devices(kv_heads, backend):
    """With key heads for all shards of a row these exchange, else they gather."""
    layer = Attention(heads=4, kv_heads=kv_heads, head_dim=4, backend=backend)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 8), np.float32)
    segments = np.repeat(np.asarray([[1, 1, 2, 0], [1, 2, 3, 3]], np.int32), 4, axis=1)
    init = jax.eval_shape(lambda key: layer.init(key, x), jax.random.key(0))
    params = random_weights(init)

    @jax.jit
    def step(params, x):
        def loss(params):
            output, _ = layer.apply(
                params, x, causal=True, segment_ids=(segments, segments)
            )
            return jnp.sum(output**2)

        return jax.value_and_grad(loss)(params)

    expected = step(params, x)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2))):
        compiled = step.lower(params, x).compile()
        found = compiled(params, x)
    assert ("all-to-all" in compiled.as_text()) == (kv_heads == 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        found,
        expected,
    )


def test_divided_rows_exchange_heads_and_gather_no_inputs():
    """What heads are made of stays where it is, in the backward pass as well."""
    layer = Attention(heads=4, kv_heads=4, head_dim=8, norm_rows=1, dtype="bfloat16")
    x = jnp.zeros((2, 32, 64), jnp.bfloat16)
    params = jax.eval_shape(lambda key: layer.init(key, x), jax.random.key(0))
    angles = rotary_angles(jnp.array([range(32)] * 2), 8, 100.0)

    @jax.jit
    def step(params, x):
        def loss(params, x):
            output, _ = layer.apply(params, x, angles=angles, causal=True)
            return jnp.sum(output.astype(jnp.float32) ** 2)

        return jax.grad(loss, argnums=(0, 1))(params, x)

    mesh = make_mesh(MeshConfig(data=2, sequence=4))
    with jax.set_mesh(mesh):
        where = NamedSharding(mesh, PartitionSpec("data", "sequence"))
        placed = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        text = step.lower(nn.unbox(params), placed).compile().as_text()
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
    assert "all-to-all" in text
    assert "1,32,64" not in gathered
