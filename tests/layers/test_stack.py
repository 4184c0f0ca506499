"""Scanned layers: the same as a loop, and what each policy keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.stack import remat_policy, scan_layers


class Layer(nn.Module):
    """Adds a shared array after a map; gives back what it got for itself."""

    @nn.compact
    def __call__(self, x, own, shared, doubled):
        x = jnp.tanh(Linear((3,), ("embed", "mlp"), name="map")(x)) + shared
        return (2 * x if doubled else x), own + 1


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_stack_is_its_layers_one_after_the_other(remat):
    layers = scan_layers(Layer, 4, remat, shared=1, static=1)(name="layers")
    x, shared, own = jnp.ones((2, 3)), jnp.full((2, 3), 0.1), jnp.arange(4)
    variables = layers.init(jax.random.key(0), x, own, shared, True)
    boxed = variables["params"]["map"]["kernel"]
    assert boxed.names == ("layers", "embed", "mlp")
    kernels = boxed.value
    assert len(np.unique(kernels)) == kernels.size  # every layer draws its own
    params = {"params": {"map": {"kernel": kernels}}}
    output, results = layers.apply(params, x, own, shared, True)
    for kernel in kernels:
        x = 2 * (jnp.tanh(x @ kernel) + shared)
    np.testing.assert_allclose(output, x, rtol=1e-5)
    np.testing.assert_array_equal(results, own + 1)


def test_an_unknown_policy_is_a_sentence():
    with pytest.raises(ValueError, match="'some' is not known; choose one of none"):
        remat_policy("some")
