"""The geometry of a line chart: scales, ticks and paths, to be drawn as SVG.

Every chart has one small fixed canvas, so that its letters keep their size when charts
stand in one column on a phone or in three on a desk.
"""

import dataclasses
import itertools

import numpy as np

from unitoken_jax.report import scale
from unitoken_jax.report.quantities import number

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 36
_LOG_RATIO = 20.0  # a curve that spans more than this is drawn over a log axis
_BUCKETS = 200  # of the raw line: more could not be seen


@dataclasses.dataclass(frozen=True)
class Chart:
    """One curve, raw and smoothed, ready to be drawn in WIDTH × HEIGHT pixels."""

    title: str
    unit: str
    logarithmic: bool
    x_ticks: tuple[scale.Tick, ...]
    y_ticks: tuple[scale.Tick, ...]
    raw: str  # the "d" of an SVG path
    smooth: str
    end: tuple[float, float]  # where the smoothed line ends
    summary: str


def draw(
    steps: np.ndarray,
    values: np.ndarray,
    title: str,
    unit: str = "",
    *,
    may_be_logarithmic: bool = True,
) -> Chart:
    """Lay out one curve.

    Args:
        steps: where the values were measured, ascending, [P] with P at least 1.
        values: finite, [P].
        title: what the curve shows.
        unit: of the values, "" for none.
        may_be_logarithmic: whether values far apart get a logarithmic axis.
    """
    smoothed = smooth(values)
    low, high = float(values.min()), float(values.max())
    log = may_be_logarithmic and low > 0 and high / low > _LOG_RATIO
    x_labels = scale.step_ticks(float(steps[0]), float(steps[-1]))
    y_labels = scale.log_ticks(low, high) if log else scale.linear_ticks(low, high)
    x_scale = scale.Scale(*scale.widen(steps[0], steps[-1]), LEFT, WIDTH - RIGHT)
    y_scale = scale.Scale(
        min(low, y_labels[0]), max(high, y_labels[-1]), HEIGHT - BOTTOM, TOP, log
    )

    def path(x: np.ndarray, y: np.ndarray) -> str:
        points = zip(x_scale(x), y_scale(y), strict=True)
        return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)

    return Chart(
        title=title,
        unit=unit,
        logarithmic=log,
        x_ticks=scale.ticks(x_labels, x_scale),
        y_ticks=scale.ticks(y_labels, y_scale),
        raw=path(*_thin(steps, values)),
        smooth=path(*_thin(steps, smoothed)),
        end=(float(x_scale(steps[-1:])[0]), float(y_scale(smoothed[-1:])[0])),
        summary=_summary(steps, smoothed, unit),
    )


def smooth(values: np.ndarray) -> np.ndarray:
    """Average each value with its neighbours over a 25th of the curve, [P] → [P].

    Near the ends the window shrinks, so the first and last points are not pulled.
    """
    half = len(values) // 50
    if half == 0:
        return values.astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    reach = np.minimum(half, np.minimum(places, places[::-1]))
    means = (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
    # A difference of sums is rounded; a mean never leaves the range of its values.
    return np.clip(means, values.min(), values.max())


def _summary(steps: np.ndarray, smoothed: np.ndarray, unit: str) -> str:
    first, last = number(float(smoothed[0])), number(float(smoothed[-1]))
    words = f"{first} → {last} {unit}".rstrip()
    if len(steps) == 1:
        words = f"{last} {unit}".rstrip() + " (one measurement)"
    return words


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the least and the greatest value of each of many buckets, and the ends."""
    if len(y) <= 2 * _BUCKETS:
        return x, y
    edges = np.linspace(0, len(y), _BUCKETS + 1).astype(int)
    keep = {0, len(y) - 1}
    for start, stop in itertools.pairwise(edges):
        keep.add(start + int(y[start:stop].argmin()))
        keep.add(start + int(y[start:stop].argmax()))
    places = sorted(keep)
    return x[places], y[places]
