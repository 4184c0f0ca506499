"""A plan as plain values, and as a page of text."""

import importlib.metadata
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unitoken_jax.parallel.topology import Topology
from unitoken_jax.plan import cost as costs
from unitoken_jax.plan import hlo, lint, model_flops
from unitoken_jax.plan.ahead import Compiled

Plan = dict[str, Any]
GIB = 2**30
READINGS = {
    "compiled": "as compiled",
    "capped": "roofline-capped",
    "floor": "floor",
    "calibrated": f"calibrated (±{costs.ERROR:.0%})",
}
_TOP = 12
_APART = 1.03  # capped / calibrated from which the training's time is a range
_SHOWN = 1e-3  # share of the step from which a price that is unsure is shown


def assemble(
    compiled: Compiled,
    topology: Topology,
    *,
    flops: float,
    items: Mapping[str, int],
    steps: int,
) -> Plan:
    """Prices a compiled step.

    Args:
        compiled: the step.
        topology: what it was compiled for.
        flops: of the model, of one step on all chips.
        items: what a step consumes, 'tokens' → how many on all chips.
        steps: of the whole stage.

    Returns:
        Values that JSON can hold.
    """
    program = hlo.parse(compiled.text)
    cost = costs.price(program, compiled.mesh, topology)
    chip = topology.chip
    seconds = {name: getattr(cost, name) for name in READINGS}
    per_chip = flops / topology.chips
    memory = compiled.memory
    wire = {False: 0.0, True: 0.0}
    for (_, _, network), traffic in cost.collectives.items():
        wire[network] += traffic.seconds
    limits = {
        "matrix units": cost.units,
        "HBM": cost.memory_bytes / chip.memory_bandwidth,
        "interconnect": wire[False],
        "network": wire[True],
    }
    hours = {name: steps * seconds[name] / 3600 for name in seconds}

    def rate(count: int, reading: str) -> float:
        """Of a chip and second."""
        value = seconds[reading]
        return count / topology.chips / value if value else 0.0

    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "mesh": dict(compiled.mesh),
        "memory": {
            "parameters": memory.parameters,
            "optimizer": memory.optimizer,
            "batch": memory.batch,
            "temporary": memory.temporary,
            "code": memory.code,
            "peak": memory.peak,
            "host": memory.host,
            "others": memory.others,
            "unexplained": memory.unexplained,
            "capacity": chip.memory,
            "fits": memory.needed <= chip.memory,
        },
        "seconds": seconds,
        "calibrated": chip.name in costs.CALIBRATED,
        "mfu": {
            name: per_chip / chip.peak / value if value else 0.0
            for name, value in seconds.items()
        },
        "flops": {"model": per_chip, "executed": cost.flops},
        "parts": {
            "matmul": cost.matmul,
            "kernels": cost.kernels,
            "vector": cost.vector,
            "exposed": cost.exposed,
        },
        "limits": limits,
        "bound": max(limits, key=lambda name: limits[name]),
        "unpriced": dict(cost.unpriced),
        "by_traffic": dict(cost.by_traffic),
        "on_chip": dict(cost.on_chip),
        "collectives": [
            {
                "kind": kind,
                "axes": axes,
                "network": "DCN" if network else "ICI",
                "count": traffic.count,
                "bytes": traffic.nbytes,
                "wire": traffic.wire,
                "seconds": traffic.seconds,
                "exposed": traffic.exposed,
            }
            for (kind, axes, network), traffic in sorted(
                cost.collectives.items(), key=lambda each: -each[1].wire
            )
        ],
        "items": {
            name: {
                "step": count,
                "per_second_and_chip": rate(count, "calibrated"),
                "per_second_and_chip_capped": rate(count, "capped"),
            }
            for name, count in items.items()
        },
        "steps": steps,
        "hours": hours["calibrated"],
        "hours_capped": hours["capped"],
        "chip_hours": hours["calibrated"] * topology.chips,
        "chip_hours_capped": hours["capped"] * topology.chips,
        "lint": [
            {"check": each.check, "message": each.message}
            for each in lint.check(compiled, program, topology)
        ],
        "top": [
            {"seconds": value, "name": name, "origin": origin}
            for name, (value, origin) in sorted(
                cost.top.items(), key=lambda each: -each[1][0]
            )[:_TOP]
        ],
        "compile": {
            "lower_seconds": compiled.lower_seconds,
            "compile_seconds": compiled.compile_seconds,
            "peak_rss": compiled.peak_rss,
        },
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("jax", "jaxlib", "libtpu", "flax")
        },
    }


def render(plan: Plan) -> str:
    """A plan as text."""
    memory, seconds, mfu = plan["memory"], plan["seconds"], plan["mfu"]
    mesh = " ".join(f"{k}={v}" for k, v in plan["mesh"].items() if v > 1) or "one chip"
    slices = f" x {plan['slices']} slices" if plan["slices"] > 1 else ""
    free = (memory["capacity"] - memory["peak"] - memory["code"]) / GIB
    apart = memory["unexplained"] < 0  # some of them are never there together
    lines = [
        f"{plan.get('name', 'step')} on {plan['topology']}{slices}: "
        f"{plan['chips']} chips, {mesh}",
        f"compiled in {plan['compile']['compile_seconds']:.0f} s with "
        f"{plan['compile']['peak_rss'] / GIB:.1f} GiB of host memory",
        "",
        "HBM of a chip, GiB",
        *_table(
            [label, f"{memory[name] / GIB:.2f}"]
            for name, label in (
                ("parameters", "parameters"),
                ("optimizer", "optimizer"),
                ("batch", "batch"),
                ("others", "further arguments, padding"),
                ("temporary", "temporary"),
                ("unexplained", "not at once" if apart else "unexplained"),
                ("peak", "peak, of all above"),
                ("code", "code"),
                ("host", "host"),
            )
        ),
        f"  fits: {'yes' if memory['fits'] else 'NO'}, {free:.1f} of "
        f"{memory['capacity'] / GIB:.0f} GiB free",
        "",
        "Step",
        *_table(
            [["reading", "seconds", "MFU"]]
            + [
                [label, number(seconds[name], 3), f"{mfu[name]:.1%}"]
                for name, label in _labels(plan).items()
            ]
        ),
        f"  {model_flops.FORMULA}",
        f"  {number(plan['flops']['model'] / 1e12, 1)} TFLOP of the model a chip, "
        f"{number(plan['flops']['executed'] / 1e12, 1)} executed",
        f"  of the capped reading: {_listed(plan['parts'])}",
        f"  alone: {_listed(plan['limits'])}; {plan['bound']} bound the step",
    ]
    for name, count in plan["unpriced"].items():
        lines.append(f"  NOT PRICED: {name}, {count:.0f} times a step")
    if memory["host"]:
        lines.append(
            "  NOT PRICED: what goes to host memory and back, "
            f"{memory['host'] / GIB:.2f} GiB at once"
        )
    unsure = {
        "priced by their HBM traffic, without an estimate of libtpu's": "by_traffic",
        "on the chip, as libtpu estimates it; capped and floor see next to nothing of "
        "it": "on_chip",
    }
    for words, key in unsure.items():
        shown = _dearest(plan[key], _SHOWN * seconds["capped"])
        if shown:
            lines.append(f"  {words}: {shown}")
    lines += ["", "Communication of a chip and step"]
    lines += _table(
        [["kind", "mesh axes", "over", "count", "GB", "ms", "ms exposed"]]
        + [
            [
                each["kind"],
                each["axes"] or "-",
                each["network"],
                f"{each['count']:.0f}",
                number(each["bytes"] / 1e9, 2),
                number(each["seconds"] * 1e3, 1),
                number(each["exposed"] * 1e3, 1),
            ]
            for each in plan["collectives"]
        ]
    )
    lines += ["", *_training(plan)]
    lines += [
        "",
        "Dearest instructions (capped)",
        *_table(
            [
                f"{number(each['seconds'] * 1e3, 1)} ms",
                each["name"],
                _short(each["origin"]),
            ]
            for each in plan["top"]
        ),
        "",
        f"Lint: {len(plan['lint'])} finding(s)",
        *(f"  {each['check']}: {each['message']}" for each in plan["lint"]),
    ]
    return "\n".join(lines)


def number(value: float, decimals: int) -> str:
    """Written with so many decimals, more where these are not three digits.

    From a thousand on there are none.
    """
    if abs(value) >= 1000:
        decimals = 0
    elif value:
        decimals = max(decimals, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _labels(plan: Plan) -> dict[str, str]:
    """The readings as they are called on a page of this plan."""
    if plan["calibrated"]:
        return READINGS
    chip = plan["topology"].partition(":")[0]
    raised = f"{costs.CALIBRATION} x floor, not calibrated for {chip}"
    return READINGS | {"calibrated": raised}


def _training(plan: Plan) -> list[str]:
    """What the whole stage takes, as a range where the readings are apart."""
    labels, seconds = _labels(plan), plan["seconds"]
    apart = seconds["capped"] >= _APART * seconds["calibrated"]

    def span(values: Plan, name: str, decimals: int) -> str:
        names = (name, f"{name}_capped") if apart else (name,)
        return " to ".join(number(values[each], decimals) for each in names)

    readings = labels["calibrated"]
    if apart:
        readings += f", which has no communication, to {labels['capped']}"
    return [
        f"Training ({readings})",
        *(
            f"  {span(each, 'per_second_and_chip', 1)} {name}/s/chip"
            for name, each in plan["items"].items()
        ),
        f"  {plan['steps']} steps: {span(plan, 'hours', 1)} hours, "
        f"{span(plan, 'chip_hours', 0)} chip-hours",
    ]


def _dearest(seconds: Mapping[str, float], least: float) -> str:
    """Those of at least so many seconds, the dearest first; the rest in one sum."""
    ranked = sorted(seconds.items(), key=lambda each: -each[1])
    shown = [each for each in ranked if each[1] >= least][:_TOP]
    rest = sum(seconds.values()) - sum(value for _, value in shown)
    if shown and rest >= least:
        shown.append(("others", rest))
    return ", ".join(f"{name} {number(value * 1e3, 1)} ms" for name, value in shown)


def _listed(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(value, 3)} s" for name, value in seconds.items())


def _short(origin: str) -> str:
    parts = [part for part in origin.split("/") if part not in ("while", "body")]
    return "/".join(parts[-4:])


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
