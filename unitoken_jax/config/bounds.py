"""What a field may hold beside its type: `Annotated[int, Bounds(1)]` and named ones."""

import dataclasses
import re
import typing
from typing import Annotated, TypeVar

from unitoken_jax.errors import ConfigError, shown

_Number = TypeVar("_Number", int, float)

_LARGEST_INT = 2**31 - 1  # of int32, in which ids, steps and sizes are counted
_LARGEST_FLOAT = 3.4028234e38  # of float32
_SMALLEST_FLOAT = 1.1754944e-38  # normal, of float32: below it, there is 0


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Which numbers a field may hold: `Annotated[float, Bounds(0, most=1)]`.

    Fields without bounds hold what int32 or float32 can; NaN and infinity are refused
    everywhere.

    Attributes:
        least: the smallest that may be.
        most: the greatest that may be.
        above: every number must exceed it.
        below: every number must stay below it.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __call__(self, value: _Number, config_path: str) -> _Number:
        """Return `value` if it is within the bounds.

        Raises:
            ConfigError: naming the field and the bounds.
        """
        whole = isinstance(value, int)
        largest = _LARGEST_INT if whole else _LARGEST_FLOAT
        least = -largest - whole if self.least is None else self.least
        most = largest if self.most is None else self.most
        # Written so that NaN fails.
        good = least <= value <= most
        if self.above is not None:
            good = good and value > self.above
            good = good and (whole or self.above != 0 or value >= _SMALLEST_FLOAT)
        if self.below is not None:
            good = good and value < self.below
        if not good:
            low = f"at least {least:.10g}" if self.above is None else "above "
            low += "" if self.above is None else f"{self.above:g}"
            high = f"at most {most:.10g}" if self.below is None else "below "
            high += "" if self.below is None else f"{self.below:g}"
            raise ConfigError(
                f"{config_path}: must be {low} and {high}, not {shown(value)}."
            )
        return value


Count = Annotated[int, Bounds(1)]
"""A size, or a number of things of which there must be one."""
Natural = Annotated[int, Bounds(0)]
"""A number of things of which there may be none."""
Seed = Annotated[int, Bounds(0, most=2**32 - 1)]
"""A seed: JAX's keys have so many bits, and seeds beyond would repeat others."""
Amount = Annotated[float, Bounds(0)]
"""A weight or a scale, 0 or more."""
Positive = Annotated[float, Bounds(above=0)]
"""A rate or a scale that must exceed 0."""
Share = Annotated[float, Bounds(0, most=1)]
"""A probability or a share, in [0, 1]."""
ShareBelowOne = Annotated[float, Bounds(0, below=1)]
"""A rate of dropout or a decay, in [0, 1)."""
NONE_IS_DEFAULT = "None leaves the field at its default"
"""Metadata of a field: `Annotated[Mapping[str, str], NONE_IS_DEFAULT]`."""


def check_seed(value: int, config_path: str) -> int:
    """Return a seed that JAX and NumPy both take, and that repeats no other.

    Raises:
        ConfigError: it is not in [0, 2**32).
    """
    return typing.get_args(Seed)[1](value, config_path)


def _check_name(value: str, config_path: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", value):
        raise ConfigError(
            f"{config_path}: {shown(value)} is no name of a file or folder; use "
            "letters, digits, '-', '.' and '_', and begin with a letter or digit."
        )
    return value


Name = Annotated[str, _check_name]
"""A word that names a file or folder of ours."""


def positive(config: object, *names: str) -> None:
    """Refuse a config in which one of the fields `names` is below 1.

    Raises:
        ValueError: naming the field; `build` adds where the config stands.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}.")


def below_one(config: object, *names: str) -> None:
    """Refuse a config in which one of the fields `names` is not in [0, 1).

    Raises:
        ValueError: naming the field; `build` adds where the config stands.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), not {getattr(config, name)}.")
