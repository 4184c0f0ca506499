"""What the chunked loss saves on a chip: peak memory as libtpu assigns it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unitoken_jax.layers.vocabulary import vocab_sharding
from unitoken_jax.ops import losses
from unitoken_jax.parallel import topology
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

LENGTH, WIDTH, VOCABULARY = 8192, 4096, 65_536
pytestmark = pytest.mark.skipif(
    not topology.is_available(),
    reason="libtpu is not installed: pip install -r requirements-plan.txt",
)


def in_chunks(hidden: jax.Array, kernel: jax.Array, targets: jax.Array) -> jax.Array:
    scores = losses.score_tokens(
        hidden, kernel, targets, chunk=4096, sharding=vocab_sharding(VOCABULARY)
    )
    return jnp.sum(scores.cross_entropy + 1e-5 * scores.log_partition**2)


def at_once(hidden: jax.Array, kernel: jax.Array, targets: jax.Array) -> jax.Array:
    """The same from the formula, with the logits of all positions."""
    logits = jnp.einsum(
        "btd,dv->btv",
        hidden,
        kernel.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(log_partition - chosen + 1e-5 * log_partition**2)


def peak(loss: Callable[..., jax.Array]) -> float:
    """Peak bytes of the head's loss and gradients, a row a chip."""
    chips = topology.devices(topology.parse("v5p:2x2x1"))
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), chips)

    def shape(dims, dtype, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    arguments = (
        shape((4, LENGTH, WIDTH), jnp.bfloat16, "fsdp"),
        shape((WIDTH, VOCABULARY), jnp.float32, "fsdp"),
        shape((4, LENGTH), np.int32, "fsdp"),
    )
    places = (arguments[0].sharding, arguments[1].sharding)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss, (0, 1)), out_shardings=places)
        compiled = step.lower(*arguments).compile()
    return compiled.memory_analysis().peak_memory_in_bytes


def test_chunks_need_at_most_half_the_memory() -> None:
    chunked, plain = peak(in_chunks), peak(at_once)
    print(f"{chunked / 2**30:.2f} GiB in chunks, {plain / 2**30:.2f} GiB at once")
    assert chunked <= plain / 2
