"""`python -m unitoken_jax.convert.document > docs/weights.md`: the tables to read.

Every published tensor of every format at its published size: name, shape, how many,
where it lives with us and what is done to its axes; and how each field of a
configuration is held.
"""

import math
import re
from collections.abc import Iterator

from unitoken_jax.convert.fields import Held
from unitoken_jax.convert.formats import FORMATS, Format, format_of, network_of
from unitoken_jax.convert.table import (
    Assignment,
    Constant,
    Ignored,
    Initial,
    plan,
    specs_of,
)

_HEAD = """# Weight tables

Made by `unitoken_jax/convert/document.py` from the tables that import and export read;
do not edit. `#` stands for any number; names that differ in such numbers
alone share a row, and × says how many they are. Paths are those of our parameters,
`[#]` is an index on the stacked leading axis.

The first table of a format says how an export holds each field of our configuration:
under which published names, or as the one value that the published class has.
"""


def document() -> str:
    """All formats as Markdown."""
    parts = [_HEAD]
    for name in FORMATS:
        for config in format_of(name).published:
            parts.append("\n".join(_section(format_of(name), config)) + "\n")
    return "\n".join(parts)


def _section(kind: Format, config: object) -> Iterator[str]:
    network = network_of(config)
    specs = specs_of(network.abstract(config))
    table = kind.table(config)
    assignments = plan(table, specs, network.counts(config)).values()
    numbers = sum(math.prod(assignment.published) for assignment in assignments)
    yield f"## {kind.name}: {network.kind}\n"
    yield f"{kind.title}. {len(assignments):,} tensors, {numbers:,} numbers.\n"
    yield from _fields(kind, config)
    yield "| published name | shape | × | ours | layout |"
    yield "|---|---|---|---|---|"
    rows: dict[tuple[str, ...], list[Assignment]] = {}
    for assignment in assignments:
        rows.setdefault(_row(assignment), []).append(assignment)
    for (key, shape, paths, layout), alike in rows.items():
        only = alike[0] if len(alike) == 1 else None
        shown = (only.key, _paths(only)) if only else (key, paths)
        yield f"| `{shown[0]}` | {shape} | {len(alike)} | {shown[1]} | {layout} |"
    for rule in table:
        if isinstance(rule, Initial):
            shape = specs[rule.path].shape
            yield f"| none | {shape} | | `{rule.path}` | begins at {rule.value} |"
        elif isinstance(rule, Ignored):
            yield f"| `{rule.pattern}` | | | dropped | {rule.why} |"


def _fields(kind: Format, config: object) -> Iterator[str]:
    """How the format holds the fields of a configuration and of its parts."""
    yield "| field | held as |"
    yield "|---|---|"
    free: dict[str, list[str]] = {}
    for path, one, held in _held(kind, config, ""):
        names = ", ".join(f"`{name}`" for name in held.names)
        if held.kind == "free":
            free.setdefault(held.why, []).append(f"`{path}`")
        elif held.kind == "written":
            yield f"| `{path}` | {names} |"
        else:
            value = f"`{held.value(one)!r}`, or "
            value += "refused" if held.kind == "must" else "a warning"
            yield f"| `{path}` | {names + '; ' if names else ''}{value}: {held.why} |"
    for why, paths in free.items():
        yield f"| {' '.join(paths)} | not: {why} |"
    yield ""


def _held(
    kind: Format, config: object, prefix: str
) -> Iterator[tuple[str, object, Held]]:
    for name, held in kind.holdings[type(config)].items():
        if held.kind == "part":
            yield from _held(kind, getattr(config, name), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", config, held


def _row(assignment: Assignment) -> tuple[str, str, str, str]:
    """What a row shows; tensors with the same row share it."""
    key = re.sub(r"(?<=\.)\d+(?=\.)", "#", assignment.key)
    paths = re.sub(r"\d+", "#", _paths(assignment))
    rule = assignment.rule
    if not isinstance(rule, Constant):
        layout = rule.layout.text
    else:
        layout = "computed" if rule.derived else f"always {rule.value}"
    return key, str(assignment.published), paths, layout


def _paths(assignment: Assignment) -> str:
    return (
        " ".join(f"`{slot.path}{'[#]' * len(slot.index)}`" for slot in assignment.slots)
        or "not stored"
    )


if __name__ == "__main__":
    print(document(), end="")
