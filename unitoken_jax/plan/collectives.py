"""Communication of a compiled program: kind, bytes, mesh axes, seconds on the wire."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unitoken_jax.parallel.topology import Topology
from unitoken_jax.plan.hlo import (
    ASYNC,
    Array,
    Computation,
    HloError,
    Instruction,
    Program,
)

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
LATENCY = 2e-6  # seconds that a collective takes at least

_SCATTERED = "all-reduce-scatter"
"""How libtpu calls a fusion that sums and keeps one shard: only that is sent."""
_CHAIN = re.compile(r'chain_id="(\d+)"')
_CROSSING = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_COLORS = re.compile(r"colors:(\d+)")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}"
)
_IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_TILES = re.compile(r"replica_groups=\[([\d,]+)\]<=([^\s]*)")
_LISTS = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclass(frozen=True)
class Collective:
    """One communication between devices.

    Attributes:
        kind: of `KINDS`.
        nbytes: of the whole array that is gathered, reduced or sent.
        wire: bytes that a chip sends.
        axes: mesh axes that the devices differ in, '' if nobody sends.
        seconds: on the wire, without waiting.
        network: whether it goes between slices.
        dtype: of the largest array.
        chain: what libtpu calls a collective that goes on over several instructions,
            each of which names it again; '' for all others.
        others: what the same instruction carries besides, one after the other.
    """

    kind: str
    nbytes: float
    wire: float
    axes: str
    seconds: float
    network: bool
    dtype: str
    chain: str = ""
    others: tuple["Collective", ...] = ()

    @property
    def whole(self) -> float:
        """Seconds on the wire, with those of the others."""
        return self.seconds + sum(each.seconds for each in self.others)


def inside(
    instruction: Instruction, program: Program
) -> Iterator[tuple[Computation, Instruction]]:
    """Yield what an async-start or a fusion carries, with where each stands."""
    if instruction.opcode not in (*ASYNC, "fusion"):
        return
    name = instruction.called("calls") or instruction.called("to_apply")
    computation = program.computations.get(name or "")
    if computation is None:
        return
    for each in computation.instructions:
        if each.opcode.removesuffix("-start") in KINDS:
            yield computation, each
        else:
            yield from inside(each, program)


def read(
    computation: Computation,
    instruction: Instruction,
    mesh: Mapping[str, int],
    topology: Topology,
) -> Collective:
    """What a collective moves, and how long.

    Args:
        computation: where it stands.
        instruction: one whose opcode is of `KINDS`, or its start.
        mesh: sizes of the axes, in order.
        topology: of the slice.
    """
    kind = instruction.opcode.removesuffix("-start")
    if kind == "all-reduce" and computation.name.startswith(_SCATTERED):
        kind = "reduce-scatter"
    operands = [
        array
        for name in instruction.operands
        if name in computation.by_name
        for array in computation.by_name[name].results
    ]
    results = instruction.results
    if instruction.opcode.endswith("-start"):  # the operands come first
        results = results[len(operands) :] or results
    taken, given = (sum(each.nbytes for each in group) for group in (operands, results))
    members = groups(instruction, math.prod(mesh.values()))
    size = len(members[0]) if members else 1
    axes = differing(members, mesh)
    share = (size - 1) / size if size > 1 else 0.0
    nbytes = max(taken, given) if kind == "all-gather" else taken
    wire = {
        "all-gather": nbytes * share,
        "reduce-scatter": nbytes * share,
        "all-reduce": 2 * nbytes * share,
        "all-to-all": nbytes * share,
        "ragged-all-to-all": nbytes * share,
    }.get(kind, nbytes)
    network = "slice" in axes.split("+")
    chip = topology.chip
    if not axes:
        seconds = 0.0
    elif network:
        # Of what crosses, hierarchical algorithms send one share a slice.
        seconds = wire / max(1, size // topology.slices) / chip.network_bandwidth
    else:
        seconds = wire / (links(instruction, topology) * chip.link_bandwidth)
    return Collective(
        kind,
        nbytes,
        wire,
        axes,
        seconds + (LATENCY if axes else 0.0),
        network,
        max(operands, key=lambda each: each.nbytes).dtype if operands else "",
        _chain(instruction),
    )


def crossing(
    computation: Computation, instruction: Instruction, topology: Topology
) -> Collective | None:
    """What a `send` gives to the network between slices; None for any other.

    libtpu leaves one slice's part to the network of its host: it sends what the chips
    of a slice have summed or hold, and receives what all slices have.

    Raises:
        HloError: a transfer of an unknown type.
    """
    kind = _CROSSING.search(instruction.attributes)
    if instruction.opcode != "send" or kind is None:
        return None
    sent = computation.by_name[instruction.operands[0]].results[0]
    others = topology.slices - 1
    shares = {
        "ALL_REDUCE": 2 * others / topology.slices,
        "REDUCE_SCATTER": others / topology.slices,
        "ALL_TO_ALL": others / topology.slices,
        "ALL_GATHER": others,
        "ONE_TO_ONE": 1,
    }
    if kind[1] not in shares:
        raise HloError(
            f"{instruction.name} sends between slices in an unknown way, {kind[1]}"
        )
    wire = shares[kind[1]] * sent.nbytes
    gathered = topology.slices if kind[1] == "ALL_GATHER" else 1
    return Collective(
        kind[1].lower().replace("_", "-"),
        gathered * sent.nbytes,
        wire,
        "slice",
        wire / topology.chip.network_bandwidth + LATENCY,
        True,
        sent.dtype,
        rendezvous(instruction),
    )


def rendezvous(instruction: Instruction) -> str:
    """The name under which what was sent between slices is received; '' if none is."""
    if _CROSSING.search(instruction.attributes) is None:
        return ""
    match = _RENDEZVOUS.search(instruction.attributes)
    return match[1] if match else ""


def _chain(instruction: Instruction) -> str:
    match = _CHAIN.search(instruction.attributes)
    if match is None:
        return ""
    # Numbers of chains begin anew in every loop; channels do not.
    channel = instruction.attribute("channel_id")
    return f"{match[1]}.{channel}"


def links(instruction: Instruction, topology: Topology) -> int:
    """Links that libtpu's strategy keeps busy in every chip."""
    most = 2 * sum(size > 1 for size in topology.shape) or 1
    if "collective-permute" in instruction.opcode:
        return 1
    colors = _COLORS.search(instruction.attributes)
    if colors is None:
        return most
    each = 1 if "UniDirection" in instruction.attributes else 2
    return max(1, min(most, each * int(colors[1])))


def groups(instruction: Instruction, devices: int) -> list[list[int]]:
    """Numbers of the devices that talk to each other, group by group."""
    attributes = instruction.attributes
    if match := _MESH.search(attributes):
        sizes = [int(part.split("=")[1]) for part in match[1].split(",")]
        names = [part.split("=")[0].strip().strip("'") for part in match[1].split(",")]
        inner = [part.strip().strip("'") for part in match[3].split(",")]
        order = _iota(match[2]) if match[2] else np.arange(math.prod(sizes))
        # [devices] → [*sizes]
        grid = order.reshape(sizes)
        moved = [names.index(name) for name in inner]
        kept = [axis for axis in range(len(sizes)) if axis not in moved]
        count = math.prod(sizes[axis] for axis in moved)
        # [*sizes] → [*kept, *moved] → [groups, count]
        return grid.transpose(*kept, *moved).reshape(-1, count).tolist()
    if match := _TILES.search(attributes):
        shape = [int(size) for size in match[1].split(",")]
        # [devices] → [groups, count]
        return _iota(match[2]).reshape(shape).tolist()
    if (match := _PAIRS.search(attributes)) or (match := _LISTS.search(attributes)):
        found = [
            [int(each) for each in part.split(",")]
            for part in re.findall(r"\{([\d,]+)\}", match[1])
        ]
        if found:
            return found
    return [list(range(devices))]


def _iota(text: str) -> np.ndarray:
    """Numbers of devices in the order of '[2,32]T(1,0)': a transposed table."""
    match = _IOTA.match(text)
    if match is None:
        raise HloError(f"the order of devices {text!r} cannot be read")
    base = [int(size) for size in match[1].split(",")]
    axes = [int(axis) for axis in match[2].split(",")] if match[2] else range(len(base))
    # [devices] → [*base], its axes in the order of `axes`
    return np.arange(math.prod(base)).reshape(base).transpose(*axes)


def differing(members: Sequence[Sequence[int]], mesh: Mapping[str, int]) -> str:
    """Names of the mesh axes along which devices of a group differ, '+' between."""
    sizes = tuple(mesh.values())
    total = math.prod(sizes)
    places = np.stack(np.unravel_index(np.arange(total), sizes))  # [axes, devices]
    differ = np.zeros(len(sizes), bool)
    for group in members:
        inside_mesh = [device for device in group if device < total]
        here = places[:, inside_mesh]
        differ |= (here != here[:, :1]).any(1)
    return "+".join(name for name, found in zip(mesh, differ, strict=True) if found)


def largest(arrays: Sequence[Array]) -> float:
    """Bytes of the largest of some arrays."""
    return max((array.nbytes for array in arrays), default=0.0)
