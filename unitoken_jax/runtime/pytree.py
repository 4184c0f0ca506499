"""Nested parameters by path: {'decoder': {'kernel': x}} ⇄ {'decoder/kernel': x}."""

from collections.abc import Mapping
from typing import Any, cast

from flax import traverse_util

PyTree = Any
"""A tree of arrays, shapes or shardings, or a leaf of one; JAX takes any container."""


def flatten(nested: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Return the leaves keyed by slash-separated path."""
    return cast("dict[str, PyTree]", traverse_util.flatten_dict(dict(nested), sep="/"))


def nest(flat: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Undo `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")
