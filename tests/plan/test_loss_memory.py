"""What the chunked loss saves on a chip: peak memory as libtpu assigns it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unitoken_jax.layers.head import division
from unitoken_jax.ops import losses
from unitoken_jax.parallel import topology
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

LENGTH, WIDTH, VOCABULARY = 8192, 4096, 65_536
pytestmark = pytest.mark.skipif(
    not topology.is_available(),
    reason="libtpu is not installed: pip install -r requirements-plan.txt",
)


def peak(chunk: int) -> tuple[float, str]:
    """Peak bytes of the head's loss and gradients, a row a chip, and the program."""
    chips = topology.devices(topology.parse("v5p:2x2x1"))
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), chips)

    def shape(dims, dtype, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    def loss(hidden, kernel, targets):
        scores = losses.score_tokens(
            hidden,
            kernel,
            targets,
            chunk=chunk,
            division=division(*targets.shape),
        )
        return jnp.sum(scores.cross_entropy + 1e-5 * scores.log_partition**2)

    arguments = (
        shape((4, LENGTH, WIDTH), jnp.bfloat16, "fsdp"),
        shape((WIDTH, VOCABULARY), jnp.float32, "fsdp"),
        shape((4, LENGTH), np.int32, "fsdp"),
    )
    places = (arguments[0].sharding, arguments[1].sharding)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss, (0, 1)), out_shardings=places)
        compiled = step.lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    return analysis.peak_memory_in_bytes, compiled.as_text() or ""


def test_chunks_need_at_most_half_the_memory() -> None:
    chunked, text = peak(512)
    plain, _ = peak(LENGTH)
    assert chunked <= plain / 2
    # Gathered once for all chunks and summed once: no communication in the loops.
    loops, entry = text.split("ENTRY", 1)
    kinds = ("all-gather(", "all-reduce(", "reduce-scatter(", "all-gather-start(")
    assert not any(kind in loops for kind in kinds)
    assert any(kind in entry for kind in kinds)
    print(f"{chunked / 2**30:.2f} GiB in chunks, {plain / 2**30:.2f} GiB at once")
