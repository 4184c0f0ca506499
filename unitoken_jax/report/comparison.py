"""The page of a sweep: a table, curves over each other, and the trade-off plot.

It reads `sweep.json` and the directories of the runs, whatever is there of them: runs
that are missing, failed or collapsed are named. Read `build` first.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from unitoken_jax.report import chart, plot, quantities, run, template
from unitoken_jax.report.run import Content, Run

STATE = "sweep.json"
_SHAPES = {  # paths around the origin
    "circles": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "squares": "M-3.6 -3.6h7.2v7.2h-7.2z",
    "triangles": "M0 -4.6L4.4 3.6H-4.4z",
    "diamonds": "M0 -4.8L4.8 0L0 4.8L-4.8 0z",
}


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One run of the sweep, and how it stands."""

    name: str
    labels: Mapping[str, str]
    seed: int
    status: str
    failures: int
    seconds: float
    error: str
    found: Run | None

    def measure(self, name: str) -> Content | None:
        """Return what an evaluator found: {value, unit, baseline, …}, or None.

        The value need not be finite.
        """
        evaluator, _, key = name.partition("/")
        part = self.found.evaluation.get(evaluator, {}) if self.found else {}
        return part.get("measures", {}).get(key)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The runs of one combination of values, which differ in their seeds."""

    labels: Mapping[str, str]
    attempts: tuple[Attempt, ...]

    @property
    def name(self) -> str:
        """The values in words."""
        return ", ".join(self.labels.values())

    @property
    def done(self) -> int:
        """How many of its runs are complete."""
        return sum(attempt.status == "done" for attempt in self.attempts)

    def values(self, *measures: str) -> list[tuple[float, ...]]:
        """Return the values of some measures, for each seed that has all finite."""
        found = [[a.measure(name) for name in measures] for a in self.attempts]
        return [
            tuple(measure["value"] for measure in same if measure)
            for same in found
            if all(measure and _is_finite(measure) for measure in same)
        ]


@dataclasses.dataclass(frozen=True)
class Looks:
    """By what the plots tell settings apart.

    Attributes:
        color: the axis that colors stand for.
        ordered: whether lines follow the order of its values.
        facet: the axis whose values have plots of their own, or ''.
        numbers: label of `color` → number of its color.
    """

    color: str
    ordered: bool
    facet: str
    numbers: Mapping[str, int]

    def number(self, setting: Setting) -> int:
        """Return the number of a setting's color."""
        return self.numbers[setting.labels[self.color]]

    def shape(self, setting: Setting) -> str:
        """Name what is told apart by shape: what neither color nor facet shows."""
        seen = (self.color, self.facet)
        return ", ".join(v for axis, v in setting.labels.items() if axis not in seen)

    def shapes(self, settings: Sequence[Setting]) -> list[str]:
        """Name the shapes of some settings, each once."""
        return list(dict.fromkeys(map(self.shape, settings)))


def build(folder: Path | str) -> Path:
    """Write FOLDER/report.html from what is in FOLDER, and return its path.

    Raises:
        run.RunError: FOLDER is not that of a sweep, or cannot be written to.
    """
    folder = Path(folder)
    return template.write(folder, compose(folder))


def compose(folder: Path) -> str:
    """Return the page of a sweep as HTML.

    Raises:
        run.RunError: FOLDER is not that of a sweep.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise run.RunError(f"{folder / STATE} cannot be read: {error}.") from error
    view = state["page"]
    attempts = _attempts(folder, state)
    settings = _settings(attempts)
    pairs = [(view["x"], view["y"]), *view.get("others", ())]
    pairs = [(x, y) for x, y in pairs if x and y]
    shown = [view["x"], view["y"], *itertools.chain(*pairs), *view["measures"]]
    measures = list(dict.fromkeys(filter(None, shown)))
    return template.render(
        "comparison.html",
        {"time": quantities.duration},
        title=state["title"],
        lead=_lead(attempts, settings, state),
        measures=[
            (
                name,
                quantities.preference(name.partition("/")[2]),
                _against(attempts, name),
            )
            for name in measures
        ],
        collapse=view["collapse"],
        collapse_share=view["collapse_share"],
        lost=_lost(attempts, [*measures, view["collapse"]]),
        troubled=[a for a in attempts if a.status in ("failed", "blocked", "refused")],
        retried=[a for a in attempts if a.failures and a.status == "done"],
        missing=[a for a in attempts if a.status in ("waiting", "running")],
        attempts=attempts,
        canvas=chart,
        shapes=tuple(_SHAPES.values()),
        **_rows(state, settings, measures),
        **_plots(state, settings, pairs),
    )


def _rows(
    state: Content, settings: Sequence[Setting], measures: Sequence[str]
) -> dict[str, object]:
    """Return what the template needs to know for the table of settings."""
    axes = [axis["name"] for axis in state["axes"]]
    collapsed = _collapsed(settings, state["page"])
    return {
        "axes": axes,
        "collapsed": [setting.name for setting in settings if setting in collapsed],
        "rows": [
            {
                "labels": [setting.labels[axis] for axis in axes],
                "cells": [_cell(setting, name) for name in measures],
                "seeds": setting.done,
                "collapsed": setting in collapsed,
            }
            for setting in settings
        ],
    }


def _plots(
    state: Content, settings: Sequence[Setting], pairs: Sequence[tuple[str, str]]
) -> dict[str, object]:
    """Return what the template needs to know for the plots."""
    view = state["page"]
    # Sweeps of earlier versions wrote "colour", and have one plot, with lines.
    color = (view["color"] if "color" in view else view["colour"]) or (
        state["axes"][0]["name"]
    )
    ordered = view.get("ordered", True)
    colors = {
        label: number
        for axis in state["axes"]
        if axis["name"] == color
        for number, label in enumerate(axis["labels"])
    }
    looks = Looks(color, ordered, view["facet"], colors)
    facets = _facets(settings, view["facet"])
    return {
        "color": color,
        "ordered": ordered,
        "colors": {
            label: number % plot.COLORS
            for label, number in colors.items()
            if any(setting.labels[color] == label for setting in settings)
        },
        "shape_names": list(
            zip(itertools.cycle(_SHAPES), looks.shapes(settings), strict=False)
        ),
        "trades": [plots for pair in pairs if (plots := _trades(facets, pair, looks))],
        "curves": [
            plots for key in view["curves"] if (plots := _curves(facets, key, looks))
        ],
        "shows_curves": bool(view["curves"]),
    }


def _attempts(folder: Path, state: Content) -> list[Attempt]:
    attempts = []
    for name, task in state["tasks"].items():
        if task["labels"] is None:
            continue  # a shared stage
        path = folder / task["run"]
        attempts.append(
            Attempt(
                name=name,
                labels=task["labels"],
                seed=task["seed"],
                status=task["status"],
                failures=task["failures"],
                seconds=task["seconds"],
                error=task["error"],
                found=run.read(path) if path.is_dir() else None,
            )
        )
    return attempts


def _settings(attempts: Sequence[Attempt]) -> list[Setting]:
    groups: dict[tuple[str, ...], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(tuple(attempt.labels.values()), []).append(attempt)
    return [Setting(same[0].labels, tuple(same)) for same in groups.values()]


def _facets(settings: Sequence[Setting], axis: str) -> dict[str, list[Setting]]:
    facets: dict[str, list[Setting]] = {}
    for setting in settings:
        facets.setdefault(setting.labels[axis] if axis else "", []).append(setting)
    return facets


def _trades(
    facets: Mapping[str, Sequence[Setting]], measures: tuple[str, str], looks: Looks
) -> list[plot.Plot]:
    """Plot a measure against another: a plot a facet, all with the same axes."""
    dots: dict[str, list[plot.Dot]] = {}
    for facet, settings in facets.items():
        shapes = looks.shapes(settings)
        for setting in settings:
            # Of a seed that lacks one of the two, the other says nothing either.
            if pairs := setting.values(*measures):
                x, y = zip(*pairs, strict=True)
                dot = plot.Dot(
                    name=setting.name,
                    color=looks.number(setting),
                    shape=shapes.index(looks.shape(setting)),
                    x=x,
                    y=y,
                )
                dots.setdefault(facet, []).append(dot)
    for same in dots.values():
        same.sort(key=lambda dot: (dot.shape, dot.color))
    beside = list(itertools.chain(*dots.values()))
    return [
        plot.against(
            same,
            _facet_title(facet, _measure_title(measures[1])),
            _measure_title(measures[0]),
            beside=beside,
            ordered=looks.ordered,
        )
        for facet, same in dots.items()
    ]


def _measure_title(measure: str) -> str:
    key = measure.partition("/")[2]
    words = (quantities.title(key), quantities.preference(key))
    return ", ".join(filter(None, words))


def _facet_title(facet: str, title: str) -> str:
    return f"{facet}: {title}" if facet else title


def _curves(
    facets: Mapping[str, Sequence[Setting]], metric: str, looks: Looks
) -> list[plot.Plot]:
    """Plot a metric of training: a plot a facet, all with the same axes."""
    stage, _, key = metric.partition("/")
    found = {
        facet: series
        for facet, settings in facets.items()
        if (series := list(_series(settings, stage, key, looks)))
    }
    title = f"{quantities.title(key)} in {stage}"
    beside = list(itertools.chain(*found.values()))
    return [
        plot.curves(series, _facet_title(facet, title), beside)
        for facet, series in found.items()
    ]


def _series(
    settings: Sequence[Setting], stage: str, key: str, looks: Looks
) -> Iterator[plot.Series]:
    for setting in settings:
        for attempt in setting.attempts:
            for found in attempt.found.stages if attempt.found else ():
                curve = found.curves.get(key) if found.name == stage else None
                if curve is not None and curve.values.size:
                    yield plot.Series(
                        name=f"{setting.name}, seed {attempt.seed}",
                        color=looks.number(setting),
                        steps=curve.steps,
                        values=curve.values,
                    )


def _is_finite(measure: Content) -> bool:
    return math.isfinite(measure["value"])


def _cell(setting: Setting, name: str) -> tuple[str, tuple[str, ...]]:
    """Write the mean over seeds, then their range; of one seed, its 95 % interval.

    And how many seeds those are, where the table's last column has another number.
    """
    found = [m for a in setting.attempts if (m := a.measure(name)) is not None]
    finite = list(filter(_is_finite, found))
    if not finite:
        return "not finite" if found else "–", ()
    write = _writer(finite[0])
    values = [measure["value"] for measure in finite]
    ends: list[float | None] = [min(values), max(values)]
    if len(finite) == 1:
        ends = [finite[0].get("low"), finite[0].get("high")]
    spread = write(*ends) if None not in ends else ""
    count = ""
    if len(finite) < len(found):
        count = f"{len(finite)} of {len(found)} finite"
    elif len(found) != setting.done:
        count = f"{len(found)} seed{'s' if len(found) != 1 else ''}"
    return write(float(np.mean(values))), tuple(filter(None, (spread, count)))


def _lost(
    attempts: Sequence[Attempt], names: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Return the runs with measures that are not finite, and those measures."""
    lost = []
    for attempt in attempts:
        measures = {name: attempt.measure(name) for name in names}
        if keys := [
            name.partition("/")[2]
            for name, measure in measures.items()
            if measure and not _is_finite(measure)
        ]:
            lost.append((attempt.name, keys))
    return lost


def _against(attempts: Sequence[Attempt], name: str) -> str:
    """Write what a measure stands beside."""
    for attempt in attempts:
        measure = attempt.measure(name)
        if measure and measure.get("baseline") is not None:
            return f"{measure.get('against')}: {_writer(measure)(measure['baseline'])}"
    return ""


def _writer(measure: Content) -> Callable[..., str]:
    """Return what writes a value of a measure, or the ends of a range of values."""
    unit = measure.get("unit")
    if not unit:
        return quantities.percent
    return lambda *values: f"{' to '.join(map(quantities.number, values))} {unit}"


def _collapsed(settings: Sequence[Setting], view: Content) -> Sequence[Setting]:
    """Return the settings whose measure is far below the greatest of the sweep."""
    name = view["collapse"]
    found = [(setting, setting.values(name)) for setting in settings if name]
    means = [(setting, float(np.mean(values))) for setting, values in found if values]
    greatest = max((mean for _, mean in means), default=0.0)
    limit = view["collapse_share"] * greatest
    return [setting for setting, mean in means if mean < limit]


def _lead(
    attempts: Sequence[Attempt], settings: Sequence[Setting], state: Content
) -> str:
    done = sum(attempt.status == "done" for attempt in attempts)
    seeds = len({attempt.seed for attempt in attempts})
    seconds = sum(attempt.seconds for attempt in attempts)
    return (
        f"{len(settings)} settings of {state['config']} with {seeds} "
        f"seed{'s' if seeds != 1 else ''} each: {done} of {len(attempts)} runs are "
        f"complete, {quantities.duration(seconds)} in all besides what they share."
    )
