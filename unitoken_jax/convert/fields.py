"""What published configurations have in common: values read, and fields of ours held.

A value is read with its type and its bounds, so that "32", null or -1 end in a
sentence. Every format says of every field of our configurations how it holds it; a
model that the published class would compute otherwise is refused by field.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from unitoken_jax.convert.tensors import WeightsError

Values = Mapping[str, object]
_MOST = 2**31 - 1
MOST_LAYERS = 4096  # beyond it a number is a slip, and its table would fill the memory


def whole(
    values: Values,
    name: str,
    default: int,
    *,
    least: int = 1,
    most: int = _MOST,
    nullable: bool = False,
) -> int:
    """A whole number; `nullable` reads null as absent.

    Raises:
        WeightsError: it is something else, or out of bounds.
    """
    value = values.get(name, default)
    if value is None and nullable:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unfit(name, value, "a whole number")
    if not least <= value <= most:
        raise _unfit(name, value, f"between {least} and {most}")
    return value


def count(values: Values, name: str, default: int, *, least: int = 1) -> int:
    """A whole number of layers, levels or codebooks.

    Raises:
        WeightsError: it is something else, or out of bounds.
    """
    return whole(values, name, default, least=least, most=MOST_LAYERS)


def number(
    values: Values,
    name: str,
    default: float,
    *,
    least: float = 0.0,
    most: float = math.inf,
    nullable: bool = False,
) -> float:
    """A finite number.

    Raises:
        WeightsError: it is something else, or out of bounds.
    """
    value = values.get(name, default)
    if value is None and nullable:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(name, value, "a number")
    if not (least <= value <= most and abs(value) < 1e300):
        raise _unfit(name, value, f"a finite number between {least} and {most}")
    return value


def flag(values: Values, name: str, default: bool) -> bool:
    """True or false.

    Raises:
        WeightsError: it is something else.
    """
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise _unfit(name, value, "true or false")
    return value


def word(values: Values, name: str, default: str) -> str:
    """A text.

    Raises:
        WeightsError: it is something else.
    """
    value = values.get(name, default)
    if not isinstance(value, str):
        raise _unfit(name, value, "a text")
    return value


def wholes(
    values: Values,
    name: str,
    default: tuple[int, ...],
    *,
    most: int = _MOST,
    nullable: bool = False,
) -> tuple[int, ...]:
    """A list of positive whole numbers, not a long one; an empty one if `nullable`.

    Raises:
        WeightsError: it is something else.
    """
    value = values.get(name, default)
    if value is None and nullable:
        return ()
    if not isinstance(value, list | tuple) or len(value) > 64:
        raise _unfit(name, value, "a short list of whole numbers")
    if not value and not nullable:
        raise _unfit(name, value, "a list of at least one whole number")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 < item <= most:
            raise _unfit(name, value, f"a list of whole numbers from 1 to {most}")
    return tuple(value)


def group(values: Values, name: str) -> Values:
    """A group of values by name; an empty one where it is absent or null.

    Raises:
        WeightsError: it is something else.
    """
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _unfit(name, value, "a group of fields")
    return value


def _unfit(name: str, value: object, expected: str) -> WeightsError:
    shown = "null" if value is None else repr(value)
    shown = shown if len(shown) < 60 else f"{shown[:60]}…"
    return WeightsError(
        f"the source's configuration has {name}={shown}, which should be {expected}"
    )


def refuse(values: Values, **expected: object) -> None:
    """Refuse a field whose value our network cannot follow (name=value)."""
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise WeightsError(
                f"the source's configuration has {name}={values[name]!r}; our network"
                f" has {value!r} only, and would compute something else"
            )


@dataclasses.dataclass(frozen=True)
class Held:
    """How a format holds one field of a configuration of ours.

    Attributes:
        kind: "written": the published configuration says it. "must": the class has one
            value, another is refused. "usual": written, but the released class has one
            value in its code, and a file of another fails to load there until that
            code is changed; said in a warning. "free": it changes nothing of what the
            class computes. "part": a configuration of its own.
        names: of the published fields that say it.
        value: configuration → the value of the class, for "must" and "usual".
        why: in a clause.
    """

    kind: Literal["written", "must", "usual", "free", "part"]
    names: tuple[str, ...] = ()
    value: Callable[[Any], object] = lambda config: None
    why: str = ""


Fields = Mapping[str, Held]
Holdings = Mapping[type, Fields]


def written(*names: str) -> Held:
    """Said by these published fields."""
    return Held("written", names)


def must(value: object, why: str, *names: str) -> Held:
    """The class has one value: itself, or a function of the configuration."""
    give = value if callable(value) else lambda config: value
    return Held("must", names, give, why)


def usual(value: object, why: str, *names: str) -> Held:
    """The released class has one value in its code, and others fail loudly there."""
    return Held("usual", names, lambda config: value, why)


def free(why: str) -> Held:
    """Nothing that the class computes depends on it."""
    return Held("free", why=why)


PART = Held("part")
_HOW = free("says how to compute, not what")
_TRAINS = free("weights or draws in training only")


def how(*names: str) -> dict[str, Held]:
    """Fields that say how to compute."""
    return dict.fromkeys(names, _HOW)


def trains(*names: str) -> dict[str, Held]:
    """Fields that only training reads."""
    return dict.fromkeys(names, _TRAINS)


def check(format: str, config: object, holdings: Holdings) -> list[str]:
    """Refuse a model that the published class cannot be.

    Args:
        format: its name, for messages.
        config: of the model.
        holdings: class of a configuration → how its fields are held.

    Returns:
        What the released class must be changed in before it loads the model.

    Raises:
        WeightsError: naming every field, its value and the class's.
    """
    refused, changed = [], []
    for path, value, published, held in _differences(config, holdings, ""):
        text = f"{path}={value!r}, and the published class has {published!r}"
        text += f" ({held.why})" if held.why else ""
        (refused if held.kind == "must" else changed).append(text)
    if refused:
        raise WeightsError(
            f"{format} cannot hold this model: {'; '.join(refused)}. Nothing is"
            " written, as it would compute something else there"
        )
    return changed


def _differences(
    config: object, holdings: Holdings, prefix: str
) -> Iterator[tuple[str, object, object, Held]]:
    for name, held in holdings[type(config)].items():
        value = getattr(config, name)
        path = f"{prefix}{name}"
        if held.kind == "part":
            if value is not None:
                yield from _differences(value, holdings, f"{path}.")
        elif held.kind in ("must", "usual"):
            published = held.value(config)
            if value != published:
                yield path, value, published, held
