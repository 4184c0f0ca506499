"""The two feed-forward blocks against their formulas."""

import jax
import numpy as np
import pytest
from jax.nn import initializers

from tests.models.random_weights import random_weights
from unitoken_jax.layers.mlp import MLP, GatedMLP

X = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)


def weights(layer):
    return random_weights(jax.eval_shape(layer.init, jax.random.key(0), X))


def test_gated():
    layer = GatedMLP(5, initializers.normal(1.0))
    params = weights(layer)
    gate, up, down = (params["params"][n]["kernel"] for n in ("gate", "up", "down"))
    inner = X @ gate
    expected = (inner / (1 + np.exp(-inner)) * (X @ up)) @ down
    np.testing.assert_allclose(layer.apply(params, X), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu_erf"])
def test_plain(activation):
    layer = MLP(5, activation, output=2)
    params = weights(layer)
    up, down = params["params"]["up"], params["params"]["down"]
    inner = X @ up["kernel"] + up["bias"]
    if activation == "gelu_erf":
        gate = 1 + jax.scipy.special.erf(inner / np.sqrt(2, dtype=np.float32))
    else:
        gate = 1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))
    expected = (inner / 2 * gate) @ down["kernel"] + down["bias"]
    np.testing.assert_allclose(layer.apply(params, X), expected, atol=1e-5)
