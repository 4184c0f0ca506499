"""Plain matrix products of every chip: libtpu's estimates against the published peaks.

A clock or a number of FLOPs a cycle that is wrong shows as a share of the peak that is
above 1 or far below.
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
from unitoken_jax.plan import cost, hlo
from unitoken_jax.plan.ahead import listening

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
SIZES = (4096, 8192)
SHARES = (0.6, 1.02)  # of the peak, least and most


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
        UserError: a share of the peak or a number of FLOPs that cannot be.
    """
    for chip in TOPOLOGIES:
        for size in SIZES:
            check = run(chip, size)
            yield f"{chip}: a product of {size} cubed at {check.share:.0%} of the peak"
            least, most = SHARES
            if not least <= check.share <= most:
                raise UserError(
                    f"{chip}: {check.share:.0%} of the peak cannot be; its clock, its "
                    "FLOPs a cycle or libtpu's estimates are wrong"
                )
            if not math.isclose(check.flops, 2.0 * size**3, rel_tol=1e-6):
                raise UserError(
                    f"{chip}: {check.flops:.3g} FLOPs were counted of a product of "
                    f"{size} cubed"
                )
