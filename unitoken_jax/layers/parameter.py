"""One parameter of a Linen module: float32, with a logical name for every axis."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer: TypeAlias = Callable[..., jax.Array]
"""A function of (key, shape, dtype)."""


def parameter(
    module: nn.Module,
    name: str,
    init: Initializer,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
) -> jax.Array:
    """Declare a parameter of `module` and return its value.

    Args:
        module: the module that calls, inside `setup` or a compact method.
        name: the parameter's name.
        init: initialiser, called with (key, shape, dtype).
        axes: logical name of each axis; None for an axis that is never divided.
        shape: its shape.

    Returns:
        A float32 array; boxed with its axes in the variables that `init` returns.
    """
    value: Any = module.param(
        name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
    )
    return value
