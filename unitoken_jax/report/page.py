"""Building the page of a run: what the files say, arranged for a reader.

The page is one HTML file that needs nothing else: style, charts (SVG) and pictures
(data URIs) stand in it. Read `build` first.
"""

import dataclasses
import datetime
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from unitoken_jax.report import chart, quantities, results, run, stages, template
from unitoken_jax.report.results import Example, Group
from unitoken_jax.report.run import Content, Run, Stage

_EXAMPLES = 24  # of one kind
_ROWS = 12  # of the table that is open
_HEADLINES = (
    "psnr",
    "code_usage",
    "image_to_text/recall@5",
    "accuracy/all",
    "caption_rank",
    "class_rank",
    "cycle/all",
)
# Pictures, words and lists that make an example one of these kinds.
_KINDS: Mapping[str, tuple[set[str], set[str], set[str]]] = {
    "reconstructions": ({"original", "reconstruction"}, set(), set()),
    "questions": (set(), {"question", "answer", "expected", "correct"}, set()),
    "searches": (set(), {"caption", "rank"}, {"found"}),
    "drawings": ({"image"}, {"prompt"}, set()),
}


def build(workdir: Path | str) -> Path:
    """Write WORKDIR/report.html from what is in WORKDIR, and return its path.

    An older page stays complete until the new one takes its place.

    Raises:
        run.RunError: if WORKDIR is not a directory or cannot be written to.
    """
    workdir = Path(workdir)
    return template.write(workdir, compose(run.read(workdir)))


def compose(source: Run) -> str:
    """Return the page of a run as HTML."""
    seconds = sum(stage.seconds for stage in source.stages)
    groups = results.read(source.evaluation, source.folder)
    examples: dict[str, list[Example]] = {kind: [] for kind in (*_KINDS, "odd")}
    for group in groups:
        for items in group.examples.values():
            for item in items[:_EXAMPLES]:
                examples[_kind(item)].append(item)
    folder = shlex.quote(str(source.folder))
    columns, rows = stages.speed_table(source.stages)
    return template.render(
        "page.html",
        {"number": quantities.number, "facts": _facts},
        run=source,
        title=source.folder.resolve().name,
        lead=_lead(source, seconds),
        headlines=_headlines(groups),
        about=_about(source.evaluation),
        groups=groups,
        short=_short(groups),
        worse=[r.name for group in groups for r in group.results if r.worse],
        count=sum(len(group.results) for group in groups),
        others=[
            (other.name, other.changes, results.read(other.content, source.folder))
            for other in source.others
        ],
        stages=[stages.view(stage, seconds) for stage in source.stages],
        speed={"columns": columns, "rows": rows},
        environments=_environments(source.stages),
        command=f"python -m unitoken_jax.report --workdir {folder}",
        canvas=chart,
        **examples,
    )


def _kind(example: Example) -> str:
    for kind, (images, words, lists) in _KINDS.items():
        if (
            images <= example.images.keys()
            and words <= example.words.keys()
            and lists <= example.lists.keys()
        ):
            return kind
    return "odd"


def _lead(source: Run, seconds: float) -> str:
    """Say in a sentence what ran, for how long, when, on what and from which code."""
    if not source.stages:
        return "Nothing has run here yet."
    names = [stage.name for stage in source.stages]
    parts = [f"Stage{'s' if len(names) > 1 else ''} {_listed(names)}"]
    if seconds:
        parts.append(f"{quantities.duration(seconds)} of training")
    environment = next((s.environment for s in source.stages if s.environment), {})
    if (begun := min(stage.begun for stage in source.stages)) < math.inf:
        date = datetime.datetime.fromtimestamp(begun, datetime.UTC)
        parts.append(f"begun on {date:%-d %B %Y at %H:%M} UTC")
    devices = environment.get("devices")
    if isinstance(devices, Mapping) and "count" in devices:
        kind = devices.get("kind") or devices.get("platform")
        cores = environment.get("cpu_count")
        on_cpu = devices.get("platform") == "cpu" and cores
        parts.append(
            f"on {devices['count']} × {kind}"
            + (f" with {cores} cores" if on_cpu else "")
        )
    if isinstance(environment.get("revision"), str):
        commit, _, changes = environment["revision"].partition(",")
        parts.append(f"revision {commit[:10]}{changes}")
    return f"{', '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _headlines(groups: Sequence[Group]) -> list[results.Result]:
    """Choose the numbers to lead with: the known ones, or of each group the first."""
    found = {result.name: result for group in groups for result in group.results}
    known = [found[name] for name in _HEADLINES if name in found]
    return known or [group.results[0] for group in groups if group.results]


def _short(groups: Sequence[Group]) -> list[Group]:
    """Leave of each group what sums it up, or all if there is little."""
    if sum(len(group.results) for group in groups) <= _ROWS:
        return list(groups)
    return [
        dataclasses.replace(
            group,
            results=[
                result
                for place, result in enumerate(group.results)
                if place == 0 or result.name in _HEADLINES
            ],
        )
        for group in groups
    ]


def _about(evaluation: Content) -> str:
    """Say what an evaluation is of."""
    parts = {name for name, part in evaluation.items() if isinstance(part, Mapping)}
    of = evaluation.get("of")
    config = of.get("config") if isinstance(of, Mapping) else None
    fields = config.get("evaluation") if isinstance(config, Mapping) else None
    splits = fields if isinstance(fields, Mapping) else {}
    learnt = splits.get("split") is not None and (
        splits.get("split") == splits.get("train_split")
    )
    if parts - {"of"} in ({"memorization"}, {"reproduction"}) or learnt:
        return "Measured on what was trained on: it says what is learnt by heart."
    return (
        "Measured on held-out records: concepts that no stage has trained on, and "
        "scenes of known things in combinations that no stage has seen."
    )


def _environments(
    all_stages: Sequence[Stage],
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each distinct environment once, named by the stages that ran in it."""
    distinct: list[tuple[Content, list[str]]] = []
    for stage in all_stages:
        # Each stage has its own time, which its curves tell better.
        content = {k: v for k, v in stage.environment.items() if k != "time"}
        same = [names for known, names in distinct if known == content]
        if same:
            same[0].append(stage.name)
        elif content:
            distinct.append((content, [stage.name]))
    return [(_listed(names), _flat(content)) for content, names in distinct]


def _flat(content: Content, path: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in content.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        elif isinstance(value, list):
            rows.append((name, shlex.join(map(str, value))))
        else:
            rows.append((name, str(value)))
    return rows


def _facts(words: Content) -> str:
    """Write what is known of an example in one line."""
    parts = []
    for key, value in words.items():
        text = quantities.number(value) if quantities.is_number(value) else value
        parts.append(f"{quantities.title(key)}: {text} {quantities.unit(key)}".rstrip())
    return "; ".join(parts)
