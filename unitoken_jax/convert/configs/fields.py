"""What every published configuration has in common: named values."""

from collections.abc import Mapping
from typing import Any

from unitoken_jax.convert.table import WeightsError

Values = Mapping[str, Any]


def refuse(values: Values, *expected: Any) -> None:
    """Refuse a field whose value our network cannot follow (name, value, ...)."""
    for name, value in zip(expected[::2], expected[1::2], strict=True):
        if values.get(name, value) != value:
            raise WeightsError(
                f"the source's configuration has {name}={values[name]!r}; our network"
                f" has {value!r} only, and would compute something else"
            )
