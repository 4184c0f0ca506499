"""The divided head: the same loss and gradients as on one device."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.layers.vocabulary import vocab_sharding
from unitoken_jax.ops import losses
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

ROWS, LENGTH, WIDTH, VOCABULARY = 4, 10, 8, 12


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    return (
        jnp.asarray(random.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32),
        jnp.asarray(random.normal(size=(WIDTH, VOCABULARY)), jnp.float32),
        jnp.asarray(random.integers(-1, VOCABULARY, (ROWS, LENGTH)), jnp.int32),
    )


def gradients(hidden, kernel, targets):
    def loss(hidden, kernel):
        parts = vocab_sharding(VOCABULARY)
        scores = losses.score_tokens(hidden, kernel, targets, chunk=4, sharding=parts)
        return jnp.mean(scores.cross_entropy + 0.1 * scores.log_partition**2)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, kernel)


def test_nothing_is_divided_without_a_mesh():
    assert vocab_sharding(VOCABULARY) is None


@pytest.mark.parametrize(
    "sizes", [{"fsdp": 2, "sequence": 2}, {"fsdp": 4, "tensor": 2}]
)
def test_equals_one_device(arrays, sizes):
    whole = gradients(*arrays)
    count = int(np.prod(list(sizes.values())))
    mesh = make_mesh(MeshConfig(data=1, **sizes), jax.devices()[:count])
    with jax.set_mesh(mesh):
        divided = gradients(*arrays)
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(divided), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_vocabulary_that_stays_whole_is_reported_once(arrays, caplog):
    mesh = make_mesh(MeshConfig(data=1, tensor=8))  # which does not divide 12
    rules._report.cache_clear()
    with jax.set_mesh(mesh), caplog.at_level(logging.WARNING):
        gradients(*arrays)
    (message,) = [m for m in caplog.messages if "'vocab'" in m]
    assert "axis 'vocab' of 12 is not divisible by the 8" in message
