"""A measured number with its interval, its count and what it stands beside."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

_NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of an evaluation.

    Attributes:
        value: The number.
        count: How many samples it was measured on.
        low: Lower end of its 95 % interval, or None.
        high: Upper end of its 95 % interval, or None.
        baseline: What a system that knows nothing reaches, or None.
        against: What the baseline is, in a few words.
        unit: "" for a fraction of 1, else such as "dB".
        less_is_better: Than the baseline, if there is one.
    """

    value: float
    count: int
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    against: str = ""
    unit: str = ""
    less_is_better: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether a system that knows nothing reaches more."""
        if self.baseline is None:
            return False
        if self.less_is_better:
            return self.value > self.baseline
        return self.value < self.baseline


def proportion(
    hits: int, count: int, baseline: float | None = None, against: str = ""
) -> Measure:
    """Measure a fraction with Wilson's 95 % interval (Wilson 1927).

    Args:
        hits: How many of the samples count.
        count: How many samples there are, at least 1.
        baseline: See `Measure`.
        against: See `Measure`.
    """
    p, z = hits / count, _NORMAL_95
    center = (p + z * z / (2 * count)) / (1 + z * z / count)
    spread = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    spread /= 1 + z * z / count
    # At p = 0 or 1 the interval ends there exactly; rounding must not cross it.
    low, high = min(p, center - spread), max(p, center + spread)
    return Measure(p, count, max(0.0, low), min(1.0, high), baseline, against)


def summarize(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    unit: str = "",
    baseline: float | None = None,
    against: str = "",
    less_is_better: bool = False,
    seed: int = 0,
    resamples: int = 1000,
) -> Measure:
    """Measure a statistic with a 95 % percentile bootstrap interval (Efron 1979).

    Args:
        values: One number a sample, [N], N at least 1.
        statistic: Such as `np.mean` or `np.median`; called with an axis.
        unit: See `Measure`.
        baseline: See `Measure`.
        against: See `Measure`.
        less_is_better: See `Measure`.
        seed: Of the resampling.
        resamples: How many times the samples are drawn again.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(statistic(values[draws], axis=1), [0.025, 0.975])
    value = float(statistic(values, axis=0))
    # A statistic may lie outside the interval of its resamples, never its own.
    low, high = min(value, float(low)), max(value, float(high))
    return Measure(
        value, len(values), low, high, baseline, against, unit, less_is_better
    )


def estimate(values: np.ndarray, count: int, *, unit: str) -> Measure:
    """Measure the mean of estimates of one number, with a normal 95 % interval.

    Args:
        values: One estimate a part of the samples, [P].
        count: How many samples there are.
        unit: See `Measure`.

    Returns:
        Without interval where the estimates are one, or all the same.
    """
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if spread < 1e-12 * max(1.0, abs(mean)):
        return Measure(mean, count, unit=unit)
    half = _NORMAL_95 * spread / math.sqrt(len(values))
    return Measure(mean, count, mean - half, mean + half, unit=unit)


def table(measures: Mapping[str, Measure]) -> str:
    """Print measures as a table of aligned columns.

    What is worse than its baseline says so.
    """

    def number(value: float | None, unit: str) -> str:
        if value is None:
            return ""
        return f"{value:.4g}" if unit else f"{value:.1%}"

    rows = [("measure", "value", "95 % interval", "baseline", "samples")]
    for name, m in measures.items():
        interval = (
            ""
            if m.low is None
            else f"{number(m.low, m.unit)} – {number(m.high, m.unit)}"
        )
        value = f"{number(m.value, m.unit)} {m.unit}".rstrip()
        beside = f"{number(m.baseline, m.unit)} {m.against}".strip()
        if m.is_worse:
            beside += f" – {'above' if m.less_is_better else 'below'} its baseline"
        rows.append((name, value, interval, beside, f"{m.count:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(
        line.rstrip() for line in [lines[0], "─" * sum(widths), *lines[1:]]
    )
