"""Scales and ticks: from values to pixels, and which round values to label."""

import dataclasses
import math

import numpy as np

from unitoken_jax.report import quantities


@dataclasses.dataclass(frozen=True)
class Scale:
    """Maps values to pixels; `log` scales take positive values."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the pixels of values."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        return self.start + (values - low) / (high - low) * (self.stop - self.start)


@dataclasses.dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    label: str


def ticks(values: list[float], along: Scale) -> tuple[Tick, ...]:
    """Place and label round values on an axis."""
    places = along(np.asarray(values, np.float64))
    labels = (
        list(map(quantities.tick, values)) if along.log else quantities.ticks(values)
    )
    return tuple(map(Tick, map(float, places), labels))


def widen(low: float, high: float) -> tuple[float, float]:
    """Give an interval of one point some width."""
    if high > low:
        return float(low), float(high)
    margin = 0.1 * abs(float(low)) or 1.0
    return float(low) - margin, float(high) + margin


def linear_ticks(low: float, high: float) -> list[float]:
    """Choose about five round numbers that enclose [low, high]."""
    low, high = widen(low, high)
    stride = _round_stride((high - low) / 4)
    first, last = math.floor(low / stride + 1e-9), math.ceil(high / stride - 1e-9)
    # Rounding takes off what 3 * 0.1 has too much.
    decimals = max(0, -math.floor(math.log10(stride)))
    return [round(i * stride, decimals) for i in range(first, last + 1)]


def step_ticks(low: float, high: float) -> list[float]:
    """Choose about five round steps within [low, high]."""
    stride = max(1.0, _round_stride((high - low) / 4)) if high > low else 1.0
    first, last = math.ceil(low / stride), math.floor(high / stride)
    return [i * stride for i in range(first, last + 1)]


def _round_stride(rough: float) -> float:
    """Return the number of the form 1, 2 or 5 × 10^n that is nearest by ratio."""
    power = 10.0 ** math.floor(math.log10(rough))
    return min(
        (m * power for m in (1, 2, 5, 10)), key=lambda x: abs(math.log(x / rough))
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Choose powers of ten in [low, high], with 2 and 5 where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    spans = math.log10(high / low)
    factors = (1, 2, 5) if spans < 2 else (1, 3) if spans < 3 else (1,)
    labels = [
        float(f"{factor}e{power}")
        for power in powers
        for factor in factors
        if low <= factor * 10.0**power <= high
    ]
    return labels[:: math.ceil(len(labels) / 6)]
