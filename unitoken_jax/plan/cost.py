"""How long a compiled program takes: a clock that walks its schedule.

Four readings of one program:

- as compiled: libtpu's estimates of every instruction, attention kernels, and what of
  the communication nothing hides;
- capped: the same, but an instruction without a matrix product takes no longer than
  its HBM traffic does (libtpu overprices those 1.4 to 4.5 times on v5p);
- floor: matrix products at the peak, kernels, everything else at HBM speed, and no
  communication;
- calibrated: 1.22 times the floor, which fits published runs of MaxText on v5p and v5e
  within 10 %, and says nothing of other chips. It assumes a well-tuned program, and
  knows no communication: rank variants by `capped`.

Of work on arrays that are on the chip already, capped and floor see next to nothing,
and of prefetches no time at all, only the traffic: the first is named.

What libtpu gives no estimate of (scatters, some copies) is priced by its HBM traffic,
and named; what cannot be priced at all is named too, as are loops whose turns cannot be
read and count as one.

Communication that was started occupies the interconnect in order; only what is not
over when its result is wanted is waited for.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from unitoken_jax.parallel.topology import Topology
from unitoken_jax.plan import collectives, kernels
from unitoken_jax.plan.collectives import Collective
from unitoken_jax.plan.hlo import (
    ASYNC,
    Computation,
    Instruction,
    Program,
    branches,
)

CALIBRATION = 1.22
CALIBRATED = ("v5e", "v5p")  # chips whose published runs it was fitted to
ERROR = 0.10  # of the calibrated reading, on those

_CUSTOM = "tpu_custom_call"
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_NOTHING = (  # custom calls that name memory or order, and move nothing
    *("AllocateBuffer", "ConcatBitcast"),
    *("PrepareAsyncCallStart", "PrepareAsyncCallDone"),
)
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("after-all", "opt-barrier", "partition-id", "replica-id", "send", "recv"),
)
_READINGS = ("compiled", "capped")
_PREFETCHES = ("copy-start", "slice-start")
_NEXT_TO_NOTHING = 0.05  # of libtpu's estimate, what is left of it by the traffic


@dataclass
class Cost:
    """Seconds of one step, and what they are made of.

    Attributes:
        compiled: reading as compiled.
        capped: reading with vector operations capped.
        floor: reading of the floor.
        matmul: seconds of instructions with matrix products, as compiled.
        vector: seconds of all others, capped.
        kernels: seconds of attention kernels.
        exposed: seconds of waiting for communication, of the capped reading.
        flops: of the matrix products that the program runs, kernels included.
        units: seconds that these take at the peak.
        memory_bytes: HBM traffic of all that is not a kernel, prefetches included.
        collectives: (kind, mesh axes, network or not) → its totals.
        unpriced: custom calls and SparseCore work without a price, and loops whose
            turns are not known → how often they run.
        by_traffic: what is priced by its HBM traffic for want of an estimate →
            seconds.
        on_chip: what capped and floor price at next to nothing, since its arrays are on
            the chip → seconds as estimated.
        top: the dearest instructions → (seconds, what they come from).
    """

    compiled: float = 0.0
    capped: float = 0.0
    floor: float = 0.0
    matmul: float = 0.0
    vector: float = 0.0
    kernels: float = 0.0
    exposed: float = 0.0
    flops: float = 0.0
    units: float = 0.0
    memory_bytes: float = 0.0
    collectives: dict[tuple[str, str, bool], "Traffic"] = field(default_factory=dict)
    unpriced: Counter = field(default_factory=Counter)
    by_traffic: dict[str, float] = field(default_factory=dict)
    on_chip: dict[str, float] = field(default_factory=dict)
    top: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def calibrated(self) -> float:
        """Reading that predicts absolute times best; see `CALIBRATED`."""
        return CALIBRATION * self.floor

    def add(self, other: "Cost", times: float) -> None:
        """Adds what a computation costs that runs several times."""
        for name in (
            *("compiled", "capped", "floor", "matmul", "vector", "kernels"),
            *("exposed", "flops", "units", "memory_bytes"),
        ):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for key, traffic in other.collectives.items():
            self.collectives.setdefault(key, Traffic()).add(traffic, times)
        for name, count in other.unpriced.items():
            self.unpriced[name] += round(count * times)
        for mine, its in (
            (self.by_traffic, other.by_traffic),
            (self.on_chip, other.on_chip),
        ):
            for name, seconds in its.items():
                mine[name] = mine.get(name, 0.0) + seconds * times
        for name, (seconds, origin) in other.top.items():
            before, _ = self.top.get(name, (0.0, ""))
            self.top[name] = (before + times * seconds, origin)


@dataclass
class Traffic:
    """Communication of one kind over one set of mesh axes, a chip and a step.

    Attributes:
        count: how many.
        nbytes: of the arrays that are gathered, reduced or sent.
        wire: bytes that the chip sends.
        seconds: on the wire.
        exposed: seconds of them that are waited for.
    """

    count: float = 0.0
    nbytes: float = 0.0
    wire: float = 0.0
    seconds: float = 0.0
    exposed: float = 0.0

    def add(self, other: "Traffic", times: float) -> None:
        """Adds what happens several times."""
        for name in ("count", "nbytes", "wire", "seconds", "exposed"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))


class Walker:
    """Prices a program on a topology."""

    def __init__(
        self, program: Program, mesh: Mapping[str, int], topology: Topology
    ) -> None:
        """Keeps what prices depend on; `mesh` has the sizes of the axes, in order."""
        self._program = program
        self._mesh = mesh
        self._topology = topology
        self._known: dict[str, Cost] = {}

    def cost(self) -> Cost:
        """Costs of the whole program."""
        return self._computation(self._program.entry)

    def _computation(self, name: str) -> Cost:
        if name not in self._known:
            self._known[name] = self._walk(self._program.computations[name])
        return self._known[name]

    def _walk(self, computation: Computation) -> Cost:
        total = Cost()
        # When the interconnect is free, and when the network between slices is.
        free: dict[bool, dict[str, float]] = {
            network: dict.fromkeys(_READINGS, 0.0) for network in (False, True)
        }
        pending: dict[str, tuple[Collective, dict[str, float]]] = {}
        carried = [
            self._collective(computation, each) for each in computation.instructions
        ]
        last = _ends_of_chains(computation, carried)
        for each, found in zip(computation.instructions, carried, strict=True):
            if self._enter(computation, each, total):
                continue
            begun = _ends(computation, each, pending)
            if begun is not None:
                self._wait(total, *pending.pop(begun))
                continue
            if found is None:
                self._compute(computation, each, total)
                continue
            if found.chain and found.chain in pending:  # on its way already
                self._compute(computation, each, total)
                if last[found.chain] == each.name:
                    self._wait(total, *pending.pop(found.chain))
                continue
            if each.opcode == "fusion":  # it computes while it communicates
                self._compute(computation, each, total)
            ends = {
                name: max(getattr(total, name), free[found.network][name]) + found.whole
                for name in _READINGS
            }
            free[found.network] = dict(ends)
            self._count(total, found)
            if each.opcode.endswith("-start"):
                pending[each.name] = (found, ends)
            elif each.opcode == "send" or (
                found.chain and last[found.chain] != each.name
            ):
                pending[found.chain] = (found, ends)
            elif each.opcode == "fusion":
                # Only what outlasts the computation of the fusion itself is waited
                # for.
                own = {name: getattr(total, name) for name in _READINGS}
                late = {n: max(own[n], ends[n] - self._own(each)) for n in _READINGS}
                self._wait(total, found, late)
            else:
                self._wait(total, found, ends)
        for found, ends in pending.values():  # ends in the next turn of the loop
            self._wait(total, found, ends)
        return total

    def _enter(self, computation: Computation, each: Instruction, total: Cost) -> bool:
        """Adds what an instruction calls; says whether there was anything."""
        if each.opcode == "while":
            trips = self._program.trips(computation, each)
            if trips is None:
                total.unpriced[f"loop {each.name}: turns unknown, counted once"] += 1
                trips = 1
            total.add(self._computation(each.called("body") or ""), trips)
        elif each.opcode == "conditional":
            choices = [self._computation(name) for name in branches(each)]
            total.add(max(choices, key=lambda cost: cost.capped), 1)
        elif each.opcode == "call":
            total.add(self._computation(each.called("to_apply") or ""), 1)
        else:
            return False
        return True

    def _compute(
        self, computation: Computation, each: Instruction, total: Cost
    ) -> None:
        chip = self._topology.chip
        if each.opcode == "custom-call" and f'"{_CUSTOM}"' in each.attributes:
            kernel = kernels.read(each)
            if kernel is None:
                total.unpriced[each.op_name.rpartition("/")[2] or each.name] += 1
                return
            seconds = kernel.cycles(chip) / chip.clock
            total.flops += kernel.flops
            total.units += kernel.flops / chip.peak
            total.kernels += seconds
            total.floor += seconds
            self._advance(total, each, seconds, seconds)
            return
        if each.cycles is None:
            self._without_estimate(computation, each, total)
            return
        seconds = each.cycles / chip.clock
        products = self._program.products(computation, each)
        moved = self._program.bytes(computation, each)
        total.memory_bytes += moved
        if products:
            least = sum(count / chip.rate(kind) for kind, count in products.items())
            total.flops += sum(products.values())
            total.units += least
            total.floor += least
            total.matmul += seconds
            self._advance(total, each, seconds, seconds)
        else:
            capped = min(seconds, moved / chip.memory_bandwidth)
            total.floor += capped
            total.vector += capped
            if capped < _NEXT_TO_NOTHING * seconds:
                kind = _kind(each)
                total.on_chip[kind] = total.on_chip.get(kind, 0.0) + seconds
            self._advance(total, each, seconds, capped)

    def _without_estimate(
        self, computation: Computation, each: Instruction, total: Cost
    ) -> None:
        if self._collective(computation, each) is not None:
            return  # a fusion that only communicates
        name = each.op_name.rpartition("/")[2] or each.name
        if each.opcode in _PREFETCHES:
            total.memory_bytes += self._program.bytes(computation, each)
        elif each.opcode in ASYNC:
            total.unpriced[name] += 1
        elif each.opcode == "custom-call":
            target = _TARGET.search(each.attributes)
            if target is None or target[1] not in _NOTHING:
                total.unpriced[target[1] if target else name] += 1
        elif each.opcode not in _FREE and not each.opcode.endswith(("-start", "-done")):
            moved = self._program.bytes(computation, each)
            seconds = moved / self._topology.chip.memory_bandwidth
            total.memory_bytes += moved
            total.floor += seconds
            total.vector += seconds
            kind = _kind(each)
            total.by_traffic[kind] = total.by_traffic.get(kind, 0.0) + seconds
            self._advance(total, each, seconds, seconds)

    @staticmethod
    def _advance(
        total: Cost, each: Instruction, compiled: float, capped: float
    ) -> None:
        total.compiled += compiled
        total.capped += capped
        total.top[each.name] = (capped, each.op_name)

    def _own(self, fusion: Instruction) -> float:
        return (fusion.cycles or 0) / self._topology.chip.clock

    def _collective(
        self, computation: Computation, each: Instruction
    ) -> Collective | None:
        if each.opcode == "send":
            return collectives.crossing(computation, each, self._topology)
        base = each.opcode.removesuffix("-start")
        places = [(computation, each)]
        if base not in collectives.KINDS:
            places = list(collectives.inside(each, self._program))
        if not places:
            return None
        first, *others = (
            collectives.read(*place, self._mesh, self._topology) for place in places
        )
        return replace(first, others=tuple(others))

    @staticmethod
    def _wait(total: Cost, found: Collective, ends: Mapping[str, float]) -> None:
        key = (found.kind, found.axes, found.network)
        for name in _READINGS:
            late = max(0.0, ends[name] - getattr(total, name))
            setattr(total, name, getattr(total, name) + late)
            if name == "capped":
                total.exposed += late
                total.collectives[key].exposed += late

    @staticmethod
    def _count(total: Cost, found: Collective) -> None:
        for each in (found, *found.others):
            key = (each.kind, each.axes, each.network)
            one = Traffic(1, each.nbytes, each.wire, each.seconds)
            total.collectives.setdefault(key, Traffic()).add(one, 1)


def _kind(each: Instruction) -> str:
    """What an instruction is called where several are named together."""
    if each.opcode != "fusion":
        return each.opcode
    return each.op_name.rpartition("/")[2] or each.name


def _ends_of_chains(
    computation: Computation, carried: Sequence[Collective | None]
) -> dict[str, str]:
    """The last of the fusions over which each collective goes on, by its chain."""
    return {
        found.chain: each.name
        for each, found in zip(computation.instructions, carried, strict=True)
        if each.opcode == "fusion" and found is not None and found.chain
    }


def _ends(
    computation: Computation, each: Instruction, pending: Mapping[str, object]
) -> str | None:
    """The started collective that an instruction waits for, if it is one."""
    if not each.opcode.endswith("-done"):
        return None
    names = each.operands
    if each.opcode == "recv-done":
        names = tuple(
            collectives.rendezvous(computation.by_name[name]) for name in each.operands
        )
    return next((name for name in names if name in pending), None)


def price(program: Program, mesh: Mapping[str, int], topology: Topology) -> Cost:
    """Predicts a step.

    Args:
        program: compiled for the topology.
        mesh: sizes of the mesh's axes, in order.
        topology: the slices.
    """
    return Walker(program, mesh, topology).cost()
