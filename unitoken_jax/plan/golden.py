"""The numbers of a plan that a review should see change, and how far they may."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitoken_jax.plan.report import Plan

TOLERANCES = {
    "memory.peak": 0.03,
    "seconds.compiled": 0.05,
    "seconds.capped": 0.05,
    "seconds.floor": 0.02,
    "flops.model": 0.0,
    "flops.executed": 0.02,
    "collectives.wire": 0.05,
}
"""Number → relative deviation that is no news."""
EXACT = ("lint", "fits", "unpriced")
_NUMBER = re.compile(r"\.\d+\b")  # libtpu numbers instructions: 'while.12'


def numbers(plan: Plan) -> dict[str, object]:
    """The numbers of a plan that are kept."""
    found: dict[str, Any] = {}
    for name in TOLERANCES:
        group, field = name.split(".")
        values = plan[group]
        if isinstance(values, list):
            for each in values:
                key = f"{name}.{each['kind']}.{each['axes']}"
                found[key] = found.get(key, 0.0) + each[field]
        else:
            found[name] = values[field]
    found["lint"] = sorted({each["check"] for each in plan["lint"]})
    found["fits"] = plan["memory"]["fits"]
    found["unpriced"] = _counts(plan["unpriced"])
    return found


def _counts(unpriced: Mapping[str, float]) -> dict[str, float]:
    """How often what has no price runs, by its name without the compiler's numbers."""
    counts: dict[str, float] = {}
    for numbered, count in unpriced.items():
        name = _NUMBER.sub("", numbered)
        counts[name] = counts.get(name, 0) + count
    return counts


def compare(plan: Plan, path: Path) -> list[str]:
    """Says how a plan differs from the numbers at `path`.

    With UPDATE_GOLDEN=1 in the environment they are written instead.

    Returns:
        A sentence for each number that is out of its tolerance.
    """
    now = numbers(plan)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    if not path.is_file():
        return [f"{path} does not exist; UPDATE_GOLDEN=1 writes it"]
    before = json.loads(path.read_text())
    faults = []
    for name in sorted(before.keys() | now.keys()):
        old: Any = before.get(name)
        new: Any = now.get(name)
        if name in EXACT or old is None or new is None:
            if old != new:
                faults.append(f"{name} was {old}, is {new}")
            continue
        tolerance = TOLERANCES[".".join(name.split(".")[:2])]
        if abs(new - old) > tolerance * max(abs(old), abs(new)):
            faults.append(f"{name} was {old:.6g}, is {new:.6g}")
    return faults
