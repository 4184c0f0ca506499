"""Plots of many runs: curves over each other, and one measure against another.

They share the canvas of `chart`; colors are numbers that the style sheet knows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unitoken_jax.report import chart, scale
from unitoken_jax.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from unitoken_jax.report.quantities import number

COLORS = 10  # that the style sheet knows; further ones begin anew
SHAPES = 4


@dataclasses.dataclass(frozen=True)
class Series:
    """One run's curve: [P] steps, ascending, and [P] finite values."""

    name: str
    color: int
    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dot:
    """Two measures of one setting, each with its values for several seeds."""

    name: str
    color: int
    shape: int
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Line:
    """A path in pixels."""

    name: str
    color: int
    path: str


@dataclasses.dataclass(frozen=True)
class Mark:
    """A mean and the range over seeds, in pixels; y grows downwards."""

    name: str
    color: int
    shape: int
    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Plot:
    """Lines or marks, ready to be drawn in WIDTH × HEIGHT pixels."""

    title: str
    x_title: str
    x_ticks: tuple[scale.Tick, ...]
    y_ticks: tuple[scale.Tick, ...]
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    summary: str = ""


def curves(series: Sequence[Series], title: str, beside: Sequence[Series] = ()) -> Plot:
    """Lay out smoothed curves over each other.

    Args:
        series: at least one, none of them empty.
        title: of the plot.
        beside: curves of other plots, for which the axes leave room.
    """
    smoothed = [chart.smooth(line.values) for line in series]
    others = [chart.smooth(line.values) for line in beside]
    steps = np.concatenate([line.steps for line in [*series, *beside]])
    values = np.concatenate([*smoothed, *others])
    x_labels = scale.step_ticks(float(steps.min()), float(steps.max()))
    y_labels = scale.linear_ticks(float(values.min()), float(values.max()))
    across, upwards = _axes((steps.min(), steps.max()), (y_labels[0], y_labels[-1]))
    lines = [
        Line(line.name, line.color % COLORS, _path(across(line.steps), upwards(y)))
        for line, y in zip(series, smoothed, strict=True)
    ]
    ends = [float(y[-1]) for y in smoothed]
    return Plot(
        title=title,
        x_title="step",
        x_ticks=scale.ticks(x_labels, across),
        y_ticks=scale.ticks(y_labels, upwards),
        lines=tuple(lines),
        summary=f"ends between {number(min(ends))} and {number(max(ends))}",
    )


def against(
    dots: Sequence[Dot],
    title: str,
    x_title: str,
    *,
    beside: Sequence[Dot] = (),
    ordered: bool = True,
) -> Plot:
    """Lay out dots with bars from their least to their greatest value.

    Args:
        dots: at least one.
        title: of the plot and its vertical axis.
        x_title: of its horizontal axis.
        beside: dots of other plots, for which the axes leave room.
        ordered: whether dots of one shape are connected, in their order.
    """
    x = np.concatenate([dot.x for dot in [*dots, *beside]])
    y = np.concatenate([dot.y for dot in [*dots, *beside]])
    x_labels = scale.linear_ticks(float(x.min()), float(x.max()))
    y_labels = scale.linear_ticks(float(y.min()), float(y.max()))
    across, upwards = _axes((x_labels[0], x_labels[-1]), (y_labels[0], y_labels[-1]))

    def place(dot: Dot) -> Mark:
        xs, ys = across(np.asarray(dot.x)), upwards(np.asarray(dot.y))
        return Mark(
            name=dot.name,
            color=dot.color % COLORS,
            shape=dot.shape % SHAPES,
            x=float(xs.mean()),
            y=float(ys.mean()),
            x_range=(float(xs.min()), float(xs.max())),
            y_range=(float(ys.min()), float(ys.max())),
        )

    marks = tuple(map(place, dots))
    lines = []
    for shape in dict.fromkeys(mark.shape for mark in marks if ordered):
        same = [mark for mark in marks if mark.shape == shape]
        xs, ys = np.array([(mark.x, mark.y) for mark in same]).T
        lines.append(Line("", 0, _path(xs, ys)))
    return Plot(
        title=title,
        x_title=x_title,
        x_ticks=scale.ticks(x_labels, across),
        y_ticks=scale.ticks(y_labels, upwards),
        lines=tuple(lines),
        marks=marks,
        summary="; ".join(
            f"{dot.name}: {number(float(np.mean(dot.x)))}, "
            f"{number(float(np.mean(dot.y)))}"
            for dot in dots
        ),
    )


def _axes(
    x: tuple[float, float], y: tuple[float, float]
) -> tuple[scale.Scale, scale.Scale]:
    across = scale.Scale(*scale.widen(*x), LEFT, WIDTH - RIGHT)
    return across, scale.Scale(*scale.widen(*y), HEIGHT - BOTTOM, TOP)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
