"""Linear maps over several axes, embeddings, and the names of their axes."""

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.layers.linear import Embedding, Linear


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
