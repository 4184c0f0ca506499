"""Nested parameters by path: {'decoder': {'kernel': x}} ⇄ {'decoder/kernel': x}."""

from collections.abc import Mapping
from typing import Any, cast

from flax import traverse_util


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves keyed by slash-separated path."""
    return cast("dict[str, Any]", traverse_util.flatten_dict(dict(nested), sep="/"))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")
