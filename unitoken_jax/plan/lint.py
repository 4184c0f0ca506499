"""What a compiled step does that it need not: findings in sentences.

Unknown axis names never get here: `parallel.rules` refuses them when the step is laid
out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import jax

from unitoken_jax.parallel.topology import Topology
from unitoken_jax.plan import collectives, kernels
from unitoken_jax.plan.ahead import Compiled, shard_bytes
from unitoken_jax.plan.hlo import (
    MATMULS,
    Computation,
    Instruction,
    Program,
    matmul_flops,
)
from unitoken_jax.runtime.pytree import flatten

REPLICATED = 64 * 2**20  # bytes of one parameter that every chip may hold whole
REDUCED = 2**20  # bytes of a gradient below which an all-reduce is as good
SUMMED = 64 * 2**20  # bytes of all such of a step that are worth a finding
_FLOAT32 = 0.001  # share of the step's FLOPs that float32 products may have
_HOST = ("outfeed", "infeed", "send", "recv")
_CALLBACK = re.compile(r'custom_call_target="([^"]*(?:callback|Host)[^"]*)"')


@dataclass(frozen=True)
class Finding:
    """One thing to mend: the check's name and a sentence."""

    check: str
    message: str


def check(compiled: Compiled, program: Program, topology: Topology) -> list[Finding]:
    """Returns what is wrong with a compiled step.

    Args:
        compiled: the step.
        program: its text, parsed.
        topology: what it was compiled for.
    """
    return [
        *_replicated(compiled),
        *_float32(program),
        *_not_aliased(compiled, program),
        *_host_calls(program),
        *(Finding("involuntary remat", each) for each in compiled.warnings),
        *_all_reduced(compiled, program, topology),
        *_recomputed(compiled, program, topology),
    ]


def _replicated(compiled: Compiled) -> Iterator[Finding]:
    for path, leaf in flatten(compiled.layout.abstract.params).items():
        size = shard_bytes(leaf)
        if size >= REPLICATED and leaf.sharding.is_fully_replicated:
            yield Finding(
                "replicated",
                f"{path}: every chip holds all {size / 2**20:.0f} MiB; name an axis of "
                "it that `parallel.rules` divides",
            )


def _float32(program: Program) -> Iterator[Finding]:
    total = 0.0
    found: dict[str, float] = {}
    for computation, each, times in program.walk():
        flops = program.flops(computation, each) * times
        total += flops
        if flops:
            for name, share in _float32_products(program, computation, each.name):
                found[name] = found.get(name, 0.0) + share * times
    for name, flops in found.items():
        if flops >= _FLOAT32 * total:
            yield Finding(
                "float32 product",
                f"{name}: {flops / total:.1%} of the FLOPs multiply float32; cast both "
                "sides to bfloat16",
            )


def _float32_products(
    program: Program, computation: Computation, name: str
) -> Iterator[tuple[str, float]]:
    each = computation.by_name[name]
    if each.opcode == "fusion":
        inner = program.computation_of(each)
        for one in inner.instructions:
            yield from _float32_products(program, inner, one.name)
    elif each.opcode in MATMULS:
        sides = [computation.by_name[operand] for operand in each.operands[:2]]
        if all(side.results[0].dtype == "f32" for side in sides):
            yield _origin(each), matmul_flops(computation, each)


def _origin(each: Instruction) -> str:
    """Which part of the model an instruction comes from, as short as it is clear."""
    parts = each.op_name.split("/")
    return "/".join(parts[-4:]) if each.op_name else each.name


def _not_aliased(compiled: Compiled, program: Program) -> Iterator[Finding]:
    leaves = jax.tree_util.tree_leaves_with_path(compiled.layout.abstract)
    lost = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), shard_bytes(leaf))
        for number, (path, leaf) in enumerate(leaves)
        if number not in program.aliased
    ]
    lost = [(path, size) for path, size in lost if size >= REDUCED]
    if lost:
        size = sum(size for _, size in lost)
        yield Finding(
            "donation",
            f"{len(lost)} donated arrays ({size / 2**20:.0f} MiB), such as "
            f"{lost[0][0]}, are copied, not written in place: their result has another "
            "shape, type or sharding",
        )


def _host_calls(program: Program) -> Iterator[Finding]:
    for _, each, times in program.walk():
        if collectives.rendezvous(each):
            continue  # the network between slices
        match = _CALLBACK.search(each.attributes)
        transfers = each.opcode in _HOST and "is_host_transfer=true" in each.attributes
        if match or transfers or each.opcode in ("outfeed", "infeed"):
            yield Finding(
                "host callback",
                f"{_origin(each)} calls the host {times:.0f} times a step; "
                "take it out of the step",
            )


def _all_reduced(
    compiled: Compiled, program: Program, topology: Topology
) -> Iterator[Finding]:
    gathered = 0.0
    reduced: Counter = Counter()
    for computation, each, times in program.walk():
        if each.opcode.removesuffix("-start") != "all-reduce":
            continue
        found = collectives.read(computation, each, compiled.mesh, topology)
        if "fsdp" not in found.axes.split("+") or found.nbytes < REDUCED:
            continue
        sources = [computation.by_name.get(name) for name in each.operands]
        padded = any(
            source is not None and "dynamic-update-slice" in source.opcode + source.name
            for source in sources
        )
        if padded and not each.op_name:
            gathered += found.nbytes * times
        else:
            reduced[_origin(each)] += round(found.nbytes * times)
    if gathered >= SUMMED:
        yield Finding(
            "all-reduce for all-gather",
            f"{gathered / 1e9:.1f} GB of weights are gathered by all-reduces of arrays "
            "full of zeros, at twice the traffic: the devices of the mesh do not "
            "follow the interconnect's rings",
        )
    if reduced.total() >= SUMMED:
        ((largest, _),) = reduced.most_common(1)
        yield Finding(
            "all-reduce for reduce-scatter",
            f"{reduced.total() / 1e9:.1f} GB of gradients, above all that of "
            f"{largest}, come back whole by all-reduce although every chip keeps one "
            "shard",
        )


def _recomputed(
    compiled: Compiled, program: Program, topology: Topology
) -> Iterator[Finding]:
    runs: dict[tuple[int, ...], dict[str, float]] = {}
    sizes: dict[tuple[int, ...], float] = {}
    for _, each, times in program.walk():
        kernel = kernels.read(each) if each.opcode == "custom-call" else None
        if kernel is not None:
            counts = runs.setdefault(kernel.shape, {})
            counts[kernel.name] = counts.get(kernel.name, 0.0) + times
            rows, heads, queries, _, width = kernel.shape
            sizes[kernel.shape] = rows * heads * queries * (2.0 * width + 4.0)
    free = topology.chip.memory - compiled.memory.needed
    for shape, counts in runs.items():
        again = counts.get("fwd", 0.0) - counts.get("dkv", 0.0)
        size = sizes[shape] * counts.get("dkv", 0.0)
        if again > 0 and counts.get("dkv") and size < free:
            yield Finding(
                "attention recomputed",
                f"attention over {shape[2]} positions runs {again:.0f} times again for "
                f"its gradient, but keeping its results would take {size / 2**30:.1f} "
                f"GiB of the {free / 2**30:.1f} that are free; choose the remat policy "
                "attention or minimal",
            )
