"""TPU chips: peak rates that step times are predicted from.

A clock times the bf16 FLOPs that the matrix units retire per cycle is the published
peak, within 0.3 %. Sources: Google's system architecture pages for memory and
interconnect; the FLOPs per cycle come from compiling plain matmuls for every chip.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One generation.

    Attributes:
        name: as in topology names, 'v5p'.
        clock: cycles a second.
        flops_per_cycle: bf16 operations a cycle, of all matrix units of a chip.
        memory: bytes of HBM.
        memory_bandwidth: bytes a second.
        link_bandwidth: bytes a second of one interconnect link, one way.
        torus: axes of the interconnect.
        int8: how many times faster it multiplies 8-bit integers than bf16.
        network_bandwidth: bytes a second between slices, per chip; an assumption, as
            it depends on the host's network (100 Gbit/s for four chips).
    """

    name: str
    clock: float
    flops_per_cycle: int
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    torus: int
    int8: float = 2.0
    network_bandwidth: float = 3.1e9

    @property
    def peak(self) -> float:
        """Peak bf16 FLOP/s."""
        return self.clock * self.flops_per_cycle

    def rate(self, kind: str) -> float:
        """Peak FLOP/s of products of a kind, see `plan.hlo.product_kind`."""
        return self.peak * {"int8": self.int8, "high": 1 / 3, "highest": 1 / 6}.get(
            kind, 1.0
        )


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 1.05e9, 262_144, 32 * 2**30, 1.228e12, 45e9, 3, int8=1.0),
        Chip("v5e", 1.50e9, 131_072, 16 * 2**30, 0.819e12, 45e9, 2),
        Chip("v5p", 1.75e9, 262_144, 95 * 2**30, 2.765e12, 90e9, 3),
        Chip("v6e", 1.75e9, 524_288, 32 * 2**30, 1.640e12, 90e9, 2),
    )
}
"""Chips by name."""
