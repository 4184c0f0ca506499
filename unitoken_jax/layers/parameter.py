"""Parameters of Linen modules, and the initializers that networks share.

A parameter is float32 and has a logical name for every axis.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

Initializer: TypeAlias = Callable[..., jax.Array]
"""A function of (key, shape, dtype)."""

uniform_fan_in = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's default for convolutions and linear layers: U(±1/√fan_in)."""

vit_init = initializers.normal(0.02)
"""timm's initializer of linear maps: its truncation lies at 100 standard deviations."""

xavier_half = initializers.variance_scaling(0.25, "fan_avg", "normal")
"""Xavier normal with gain 0.5: UniTok's for its decoder and its discriminator."""


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
        init: initializer, called with (key, shape, dtype).
        axes: logical name of each axis; None for an axis that is never divided.
        shape: its shape.

    Returns:
        A float32 array; boxed with its axes in the variables that `init` returns.
    """
    value: Any = module.param(
        name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
    )
    return value


def fan_in_normal(inputs: int) -> Initializer:
    """Normal with variance 1 / fan-in, for kernels whose first axes are inputs.

    Args:
        inputs: how many leading axes are summed over.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        fan_in = math.prod(shape[:inputs])
        return jax.random.normal(key, shape, dtype) / math.sqrt(fan_in)

    return init


def uniform_bias(fan_in: int) -> Initializer:
    """PyTorch's default for biases: U(±1/√fan_in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
