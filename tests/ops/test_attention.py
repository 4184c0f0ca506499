"""Every attention backend against one plain reference, packed segments included."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops import attention as ops
from unitoken_jax.ops.attention import Layout, attention, cached_attention

SHAPES = {
    # (B, T, N, K, H), block: lengths and widths that need padding, and several tiles
    "one_tile": ((2, 24, 4, 4, 16), 512),
    "grouped_tiles": ((2, 160, 4, 2, 72), 128),
}


def draw(shape, seed=0):
    batch, length, heads, kv_heads, width = shape
    keys = jax.random.split(jax.random.key(seed), 4)
    query = jax.random.normal(keys[0], (batch, length, heads, width))
    key = jax.random.normal(keys[1], (batch, length, kv_heads, width))
    value = jax.random.normal(keys[2], (batch, length, kv_heads, width))
    segments = jnp.sort(jax.random.randint(keys[3], (batch, length), 0, 4), axis=1)
    return query, key, value, segments


def reference(query, key, value, segments, *, causal, scale=None):
    """Head by head, row by row, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, length, heads, width = query.shape
    scale = width**-0.5 if scale is None else scale
    output = np.zeros_like(query)
    for b in range(batch):
        for n in range(heads):
            k = n // (heads // key.shape[2])
            for t in range(length):
                seen = np.asarray(segments[b]) == int(segments[b, t])
                if causal:
                    seen[t + 1 :] = False
                scores = key[b, seen, k] @ query[b, t, n] * scale
                weights = np.exp(scores - scores.max())
                output[b, t, n] = weights / weights.sum() @ value[b, seen, k]
    return output


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", ["xla", "splash"])
@pytest.mark.parametrize("name", SHAPES)
def test_packed_attention_is_the_reference(name, backend, causal):
    shape, block = SHAPES[name]
    query, key, value, segments = draw(shape)
    output = jax.jit(
        lambda *qkv: attention(
            *qkv,
            causal=causal,
            segment_ids=(segments, segments),
            backend=backend,
            block=block,
        )
    )(query, key, value)
    expected = reference(query, key, value, segments, causal=causal)
    np.testing.assert_allclose(output, expected, atol=2e-6)


def test_cudnn_arguments_mean_the_same():
    query, key, value, segments = draw((2, 24, 4, 2, 16))
    arguments = ops.cudnn_arguments(
        query, key, value, causal=True, segment_ids=(segments, segments), scale=0.3
    )
    assert arguments["implementation"] == "cudnn"
    output = jax.nn.dot_product_attention(**{**arguments, "implementation": "xla"})
    expected = reference(query, key, value, segments, causal=True, scale=0.3)
    np.testing.assert_allclose(output, expected, atol=2e-6)


def test_splash_gradients_on_a_mesh_of_batch_heads_and_queries():
    query, key, value, segments = draw((2, 160, 4, 2, 24))

    def loss(backend, layout=Layout()):  # noqa: B008
        def total(*qkv):
            output = attention(
                *qkv,
                causal=True,
                segment_ids=(segments, segments),
                backend=backend,
                layout=layout,
                block=128,
            )
            return jnp.sum(output * jnp.cos(jnp.arange(24.0)))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))

    expected = loss("xla")(query, key, value)
    mesh = jax.make_mesh(
        (2, 2, 2),
        ("data", "tensor", "sequence"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    with jax.set_mesh(mesh):
        layout = Layout("data", "tensor", "sequence")
        gradients = loss("splash", layout)(query, key, value)
    for gradient, plain in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, plain, atol=1e-5)


@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_cross_lengths(backend):
    """A pooling query sees the valid keys only, and its gradient is finite."""
    query, key, value, _ = draw((2, 20, 2, 2, 8))
    query = query[:, :1]
    ids = (jnp.ones((2, 1), jnp.int32), (jnp.arange(20) < 13)[None].astype(jnp.int32))
    ids = (ids[0], jnp.broadcast_to(ids[1], (2, 20)))

    def pooled(value):
        output = attention(
            query, key, value, causal=False, segment_ids=ids, backend=backend
        )
        return jnp.sum(output), output

    gradient, output = jax.jit(jax.grad(pooled, has_aux=True))(value)
    plain = attention(query, key[:, :13], value[:, :13], causal=False, backend="xla")
    np.testing.assert_allclose(output, plain, atol=2e-6)
    assert np.all(np.asarray(gradient[:, 13:]) == 0)
    assert np.all(np.isfinite(gradient))


def test_cache_and_new_positions_equal_one_pass():
    query, key, value, _ = draw((2, 12, 4, 2, 16))
    valid = jnp.arange(12)[None] >= jnp.array([[0], [3]])  # row 1 is left-padded by 3
    ids = (valid.astype(jnp.int32), valid.astype(jnp.int32))
    whole = jax.jit(partial(attention, causal=True, segment_ids=ids, backend="xla"))(
        query, key, value
    )
    room = [(0, 0), (0, 2), (0, 0), (0, 0)]
    parts = jax.jit(cached_attention)(
        query[:, 8:],
        key[:, 8:],
        value[:, 8:],
        valid[:, 8:],
        cached_key=jnp.pad(key[:, :8], room, constant_values=7.0),
        cached_value=jnp.pad(value[:, :8], room, constant_values=7.0),
        cached_valid=jnp.pad(valid[:, :8], [(0, 0), (0, 2)]),
    )
    np.testing.assert_allclose(parts, whole[:, 8:], atol=2e-6)


def test_half_precision_keeps_its_type():
    query, key, value, _ = (x.astype(jnp.bfloat16) for x in draw((1, 8, 2, 2, 8)))
    for backend in ("xla", "splash"):
        half = partial(attention, causal=True, backend=backend)
        assert jax.eval_shape(half, query, key, value).dtype == jnp.bfloat16


def test_half_precision_scores_have_a_precise_scale():
    """Heads of 72: their scale, rounded to bfloat16, would be 0.15 % too small."""
    query, key, value, _ = (x.astype(jnp.bfloat16) for x in draw((1, 64, 2, 2, 72)))
    exact = attention(
        *(x.astype(jnp.float32) for x in (query, key, value)),
        causal=True,
        backend="xla",
    )

    def deviation(backend):
        found = attention(query, key, value, causal=True, backend=backend)
        return float(jnp.sqrt(jnp.mean((found.astype(jnp.float32) - exact) ** 2)))

    assert deviation("splash") < 1.5 * deviation("xla")


def choice(*, shape=(1, 8, 2, 2, 64), dtype=jnp.bfloat16, masked=True, **fields):
    batch, length, heads, kv_heads, width = shape
    query = jax.ShapeDtypeStruct((batch, length, heads, width), dtype)
    key = jax.ShapeDtypeStruct((batch, length, kv_heads, width), dtype)
    return ops.resolve_backend(
        fields.pop("backend", "auto"), query, key, masked=masked, **fields
    )


def test_auto_follows_the_device(monkeypatch):
    assert choice() == "xla"
    with pytest.raises(ValueError, match="'flash' is not known; choose one of"):
        choice(backend="flash")
    monkeypatch.setattr(ops, "_platform", lambda: "tpu")
    assert choice(dtype=jnp.float32) == "splash"
    assert choice(backend="xla") == "xla"


def test_auto_takes_cudnn_where_it_can(monkeypatch):
    monkeypatch.setattr(ops, "_platform", lambda: "gpu")
    assert choice() == "cudnn"
    assert choice(shape=(1, 8, 2, 2, 72)) == "cudnn"
    assert choice(shape=(1, 729, 2, 2, 72), masked=False) == "cudnn"
    assert choice(dtype=jnp.float32) == "xla"
    assert choice(shape=(1, 729, 2, 2, 72)) == "xla"
    assert choice(shape=(1, 8, 2, 2, 60)) == "xla"
    assert choice(shape=(1, 8, 2, 2, 256)) == "xla"
    assert choice(layout=Layout("data", None, "sequence")) == "xla"


@pytest.mark.parametrize(
    ("fields", "backend"),
    [
        ({"compute_capability": "8.0"}, "cudnn"),
        ({"compute_capability": "10.3"}, "cudnn"),
        ({"compute_capability": "7.5"}, "xla"),
        ({"compute_capability": "gfx90a"}, "xla"),
        ({}, "xla"),
    ],
)
def test_auto_takes_cudnn_on_gpus_that_have_it(monkeypatch, fields, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(**fields)])
    assert choice() == backend


def test_misfits_are_sentences():
    query, key, value, _ = draw((1, 8, 4, 2, 8))
    with pytest.raises(ValueError, match="query heads a multiple of the key heads"):
        attention(query[:, :, :3], key, value, causal=True)
    with pytest.raises(ValueError, match="use cached_attention"):
        attention(query[:, :2], key, value, causal=True)
    with pytest.raises(ValueError, match="must be equal"):
        attention(query, key, value[:, :3], causal=True)
