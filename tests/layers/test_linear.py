"""Linear maps over several axes, embeddings, and the names of their axes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.vocabulary import Embedding
from unitoken_jax.models.depth_head import CodeEmbeddings
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh


def test_several_axes_go_in_and_out():
    layer = Linear((5, 2), ("heads", "head_dim", "embed", None), use_bias=True)
    x = np.random.default_rng(0).standard_normal((4, 3, 6, 7), np.float32)
    variables = jax.jit(layer.init)(jax.random.key(1), x)["params"]
    kernel, bias = variables["kernel"].value, variables["bias"].value + 0.5
    assert variables["kernel"].names == ("heads", "head_dim", "embed", None)
    assert variables["bias"].names == ("embed", None)
    assert (kernel.shape, bias.shape) == ((6, 7, 5, 2), (5, 2))
    np.testing.assert_allclose(np.std(kernel), 42**-0.5, rtol=0.2)
    output = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = jnp.einsum("abij,ijop->abop", x, kernel) + bias
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_half_precision_computes_in_its_type_from_float32_parameters():
    layer = Linear((5,), ("embed", "mlp"), dtype="bfloat16")
    x = jnp.ones((2, 3))
    params = layer.init(jax.random.key(0), x)
    assert params["params"]["kernel"].value.dtype == jnp.float32
    assert layer.apply(params, x).dtype == jnp.bfloat16


def test_embedding_looks_up_and_its_gradient_adds():
    layer = Embedding(7, 4)
    table = jax.random.normal(jax.random.key(0), (7, 4))
    ids = jnp.array([[3, 3, 6]])
    params = {"params": {"embedding": table}}
    np.testing.assert_array_equal(layer.apply(params, ids), table[ids])
    gradient = jax.grad(lambda p: jnp.sum(layer.apply(p, ids)))(params)
    counts = np.bincount(ids[0], minlength=7).astype(np.float32)
    np.testing.assert_array_equal(
        gradient["params"]["embedding"], np.repeat(counts[:, None], 4, axis=1)
    )


@pytest.mark.parametrize(
    ("layer", "ids"),
    [
        (Embedding(56, 24), (4, 6)),
        (Embedding(56, 24), (4,)),
        (Embedding(56, 256), (4, 6)),
        (CodeEmbeddings(3, 56, 24), (4, 3)),
    ],
)
def test_no_device_holds_a_whole_table(layer, ids):
    """Neither the table nor its gradient; rows that are elsewhere come summed."""
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2))
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros(ids, jnp.int32))
    boxed = shapes["params"]["embedding"]
    place = jax.NamedSharding(
        mesh, rules.partition(boxed.names, boxed.value.shape, mesh)
    )
    table = jax.device_put(
        jax.random.normal(jax.random.key(1), boxed.value.shape), place
    )
    rows = jax.device_put(
        jax.random.randint(jax.random.key(2), ids, 0, 56),
        rules.batch_shardings(jnp.zeros(ids), mesh),
    )

    @jax.jit
    def step(table, rows):
        def loss(table):
            return jnp.sum(layer.apply({"params": {"embedding": table}}, rows) ** 3)

        value, gradient = jax.value_and_grad(loss)(table)
        return value, jax.lax.with_sharding_constraint(gradient, place)

    expected = step(*(np.asarray(x) for x in (table, rows)))
    with jax.set_mesh(mesh):
        compiled = step.lower(table, rows).compile()
        found = compiled(table, rows)
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)
    program = compiled.as_text()
    assert re.search(r"\b28,(12|24|128)\]", program)
    assert not re.search(r"[\[,]56,", program)


@pytest.mark.parametrize("width", [24, 25])
@pytest.mark.parametrize("ids", [(8, 6), (3, 5), (4,), (2, 2, 2)])
@pytest.mark.parametrize(
    "axes",
    [
        {"fsdp": 8},
        {"slice": 2, "data": 2, "fsdp": 2},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 2, "tensor": 4},
        {"data": 2, "fsdp": 2, "sequence": 2},
    ],
    ids=lambda axes: "-".join(f"{name}{size}" for name, size in axes.items()),
)
def test_sums_are_the_same_however_table_and_ids_are_divided(axes, ids, width):
    """Also where the mesh divides one of them in part or not at all."""
    layer = Embedding(56, width)
    table = jax.random.normal(jax.random.key(1), (56, width))
    rows = jax.random.randint(jax.random.key(2), ids, 0, 56)
    weights = jax.random.normal(jax.random.key(3), (*ids, width))

    def loss(table):
        return jnp.sum(weights * layer.apply({"params": {"embedding": table}}, rows))

    expected = jax.grad(loss)(table)
    with jax.set_mesh(make_mesh(MeshConfig(**axes))):
        found = jax.jit(jax.grad(loss))(table)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
