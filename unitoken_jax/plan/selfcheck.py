"""Every chip's peak against the published one, and plain products against the peak.

The share of the peak that libtpu expects of a product is one of cycles: a number of
FLOPs a cycle that is wrong shows in it, and so do other estimates of a new libtpu. The
clock cancels out of it, and shows in the peak alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unitoken_jax.config import UserError
from unitoken_jax.parallel import topology as topologies
from unitoken_jax.parallel.chips import CHIPS
from unitoken_jax.plan import cost, hlo
from unitoken_jax.plan.ahead import listening

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
PEAKS = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}
"""FLOP/s of bfloat16 that Google publishes."""
OFF = 0.003  # how far from it a clock times FLOPs a cycle may be
SHARES = {
    "v4": {4096: 0.88, 8192: 0.93},
    "v5e": {4096: 0.97, 8192: 0.88},
    "v5p": {4096: 0.96, 8192: 0.90},
    "v6e": {4096: 0.87, 8192: 0.70},
}
"""Shares of the peak by size, of libtpu 0.0.42.1."""
NEAR = 0.05  # how far from them a share may be


@dataclass(frozen=True)
class Check:
    """One product: the share of the peak that libtpu expects, and FLOPs as counted."""

    chip: str
    size: int
    share: float
    flops: float


def run(chip: str, size: int) -> Check:
    """Compiles a bfloat16 product of `size` cubed on one chip of a slice."""
    topology = topologies.parse(TOPOLOGIES[chip])
    found = topologies.devices(topology)
    mesh = Mesh(np.asarray(found), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    left = jax.ShapeDtypeStruct((size * len(found), size), jnp.bfloat16, sharding=rows)
    right = jax.ShapeDtypeStruct((size, size), jnp.bfloat16, sharding=whole)
    with jax.set_mesh(mesh), listening():  # or its warnings would be printed
        text = jax.jit(jnp.matmul).lower(left, right).compile().as_text()
    price = cost.price(hlo.parse(text or ""), {"data": len(found)}, topology)
    share = 2.0 * size**3 / topology.chip.peak / price.compiled
    return Check(chip, size, share, price.flops)


def lines() -> Iterator[str]:
    """One sentence for every chip and size.

    Raises:
        UserError: a peak, a share of it or a number of FLOPs is not what it was.
    """
    for chip, expected in SHARES.items():
        peak, published = CHIPS[chip].peak, PEAKS[chip]
        if not math.isclose(peak, published, rel_tol=OFF):
            raise UserError(
                f"{chip}: a peak of {peak / 1e12:.1f} TFLOP/s, but "
                f"{published / 1e12:.0f} are published; its clock or its FLOPs a cycle "
                "are wrong (parallel/chips.py)"
            )
        for size, share in expected.items():
            check = run(chip, size)
            yield f"{chip}: a product of {size} cubed at {check.share:.0%} of the peak"
            if abs(check.share - share) > NEAR:
                raise UserError(
                    f"{chip}: a product of {size} cubed at {check.share:.0%} of the "
                    f"peak, not at {share:.0%}; its FLOPs a cycle are wrong, or this "
                    "libtpu estimates otherwise"
                )
            if not math.isclose(check.flops, 2.0 * size**3, rel_tol=1e-6):
                raise UserError(
                    f"{chip}: {check.flops:.3g} FLOPs were counted of a product of "
                    f"{size} cubed"
                )
