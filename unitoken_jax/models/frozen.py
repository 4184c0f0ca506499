"""Networks that a training consults and does not change: LPIPS, DINOv2."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import linen as nn


@partial(
    jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["module"]
)
@dataclass(frozen=True)
class FrozenModel:
    """A module with its parameters; a tree whose leaves are the parameters.

    It is an argument of a compiled step, so that its weights are no constants in the
    program, and no part of the training's state.
    """

    module: nn.Module
    params: Mapping[str, Any]

    def __call__(self, *inputs: Any) -> Any:
        """Apply the module."""
        return self.module.apply({"params": self.params}, *inputs)


FrozenModels = Mapping[str, FrozenModel]
"""Frozen networks by the name a loss asks for."""
