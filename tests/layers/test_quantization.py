"""Products of eight bits are near the exact ones, forward and backward, and real."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.layers.linear import Linear

AXES, SUMMED = ("heads", "head_dim", "embed"), (2, 12)


def run(quantization):
    """A map that sums over two axes: its result and gradients, and the program."""
    layer = Linear((6,), AXES, quantization=quantization, dtype="bfloat16")
    x = jax.random.normal(jax.random.key(0), (5, 7, *SUMMED))
    kernel = jax.random.normal(jax.random.key(1), (*SUMMED, 6)) / 5

    def loss(x, kernel):
        output = layer.apply({"params": {"kernel": kernel}}, x)
        return jnp.sum(jnp.sin(output.astype(jnp.float32))), output

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    with jax.numpy_dtype_promotion("standard"):  # which qwix relies on
        (_, output), gradients = step(x, kernel)
        program = step.lower(x, kernel).as_text()
    return (output, *gradients), program


@pytest.fixture(scope="module")
def exact():
    return run("full")


@pytest.mark.parametrize(
    ("quantization", "types", "tolerance"),
    [("int8", {"i8": 2, "bf16": 1}, 0.02), ("fp8", {"f8E4M3FN": 3}, 0.1)],
)
def test_near_the_exact_ones(exact, quantization, types, tolerance):
    found, program = run(quantization)
    for ours, plain in zip(found, exact[0], strict=True):
        assert (ours.dtype, ours.shape) == (plain.dtype, plain.shape)
        error = np.linalg.norm((ours - plain).astype(np.float32).ravel())
        size = np.linalg.norm(plain.astype(np.float32).ravel())
        assert 0 < error < tolerance * size
    # Each product of the program by the type of its second factor.
    factors = re.findall(r"dot_general .*?, tensor<[^>]*x(\w+)>\)", program)
    for name, count in types.items():
        assert factors.count(name) == count, factors


def test_an_unknown_name_is_a_sentence():
    with pytest.raises(ValueError, match="'int4' is not known; choose one of full"):
        run("int4")
