"""FLOPs that a model's step needs, whatever is computed twice: the numerator of MFU.

Matrix products in the gradient's own trace, with nothing rematerialised and no batch in
chunks. Attention's products count half where it is causal, over whole rows (packing
does not make it cheaper here), and what chunked losses compute again (logits of text
and codes, similarities) does not count. For a decoder that is trained whole this is 6 x
weights x tokens + 6 x layers x heads x head_dim x row x tokens, as MaxText counts
today.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from jax.extend.core import Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.config import Dataclass
from unitoken_jax.models import registry
from unitoken_jax.models.system import FrozenModels, Shapes, System
from unitoken_jax.runtime.pytree import PyTree
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.program import TrainProgram, make_step_update
from unitoken_jax.train.update.optimizer import Optimizer
from unitoken_jax.train.update.step import Batch

ConfigT = TypeVar("ConfigT", bound=Dataclass)

_CHUNKS = ("chunks", "perceptual_chunks")
FORMULA = (
    "MFU = matrix-product FLOPs of the forward pass and of the gradients that are "
    "wanted, attention halved where causal, nothing counted twice / (chips x peak "
    "bf16 FLOP/s x seconds)"
)


def count(
    stage: StageConfig,
    system: System,
    layout: TrainProgram,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    frozen_models: FrozenModels,
) -> float:
    """FLOPs of one step of all chips, the discriminator's among them.

    Args:
        stage: the stage.
        system: its model.
        layout: of the stage; which parameters learn, and shapes of the state.
        batch: shapes of the global batch.
        frozen_models: frozen networks with abstract parameters.
    """
    plain = registry.system_of(system.kind, _plain(system.config))
    whole = dataclasses.replace(
        stage, train=dataclasses.replace(stage.train, microbatches=1)
    )
    state = jax.tree.map(_shape, layout.abstract)
    shapes = {name: _shape(x) for name, x in batch.items()}
    networks = jax.tree.map(_shape, dict(frozen_models))

    def update(state: TrainState, batch: Batch, frozen_models: FrozenModels) -> PyTree:
        rule = make_step_update(whole, plain, layout.optimizer, layout.discriminator)
        after, metrics = rule(state, batch, state.key, frozen_models)
        return after.learned, metrics

    traced = jax.make_jaxpr(update)(state, shapes, networks).jaxpr
    # Gradients that nobody asks for, such as that of a frozen head, fall away.
    wanted, _ = dce_jaxpr(traced, [True] * len(traced.outvars))
    products = _products(wanted) - _optimizer_products(layout.optimizer, state)
    return products - _uncounted(plain, layout.optimizer, shapes)


def _optimizer_products(optimizer: Optimizer, state: TrainState) -> float:
    """Return what the optimizer's own products take, such as Muon's."""
    trainable, _ = optimizer.split(state.params)
    traced = jax.make_jaxpr(optimizer.update)(
        trainable, state.opt_state, trainable, state.step
    )
    return _products(traced.jaxpr)


def _shape(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape and type alone, for a trace that knows no mesh."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _plain(config: ConfigT) -> ConfigT:
    """Return a config with nothing computed again, and with plain attention."""
    fields: dict[str, object] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name == "remat":
            value = "none"
        elif each.name == "attention" and isinstance(value, str):
            value = "xla"
        elif each.name in _CHUNKS:  # each is computed again for the gradient
            value = 1
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = _plain(value)
        fields[each.name] = value
    return dataclasses.replace(config, **fields)


def _uncounted(system: System, optimizer: Optimizer, batch: Shapes) -> float:
    """Return what the trace has above the model's own work."""

    def learns(*paths: str) -> bool:
        return any(path.startswith(paths) for path in optimizer.groups)

    return system.uncounted_flops(batch, learns) if system.uncounted_flops else 0.0


def _products(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (left_axes, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += (
                2.0
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(left[axis] for axis in left_axes)
            )
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            spec = equation.params["dimension_numbers"].rhs_spec
            # Zeros between the elements of a strided convolution's gradient do not
            # count.
            zeros = math.prod(equation.params["lhs_dilation"])
            pairs = math.prod(kernel) / kernel[spec[0]] / zeros
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * pairs
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            inner = [_products(each) for each in _inner(equation.params)]
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _inner(params: Mapping[str, object]) -> list[Jaxpr]:
    found = []
    for value in params.values():
        values = value if isinstance(value, list | tuple) else (value,)
        opened = (getattr(each, "jaxpr", each) for each in values)
        found += [each for each in opened if hasattr(each, "eqns")]
    return found
