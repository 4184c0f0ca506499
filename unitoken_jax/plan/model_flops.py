"""FLOPs that a model's step needs, whatever is computed twice: the numerator of MFU.

Matrix products in the gradient's own trace, with nothing rematerialised. Attention's
products count half where it is causal, over whole rows (packing does not make it
cheaper here), and logits that the chunked loss computes again do not count. For a
decoder that is trained whole this is 6 x weights x tokens + 6 x layers x heads x
head_dim x row x tokens, as MaxText counts today.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from unitoken_jax.models import registry
from unitoken_jax.models.chameleon import ChameleonConfig
from unitoken_jax.models.registry import System
from unitoken_jax.train.optimizer import Optimizer
from unitoken_jax.train.paths import nest

FORMULA = (
    "MFU = matrix-product FLOPs of the forward pass and of the gradients that are "
    "wanted, attention halved where causal, nothing counted twice / (chips x peak "
    "bf16 FLOP/s x seconds)"
)


def count(
    system: System,
    optimizer: Optimizer,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    companions: Mapping[str, Any] | None = None,
) -> float:
    """FLOPs of one step of all chips.

    Args:
        system: the model.
        optimizer: says which parameters learn.
        batch: shapes of the global batch.
        companions: frozen networks with abstract parameters.
    """
    plain = registry.build(
        {"kind": system.kind, **_plain(system.config)}, "config.model"
    )
    params = registry.abstract_params(plain)
    trainable, frozen = optimizer.split(params)
    extra = {"companions": companions} if system.companions else {}

    def loss(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        return plain.loss(nest({**trainable, **frozen}), batch, key, **extra)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
    traced = jax.make_jaxpr(jax.grad(loss))(trainable, frozen, shapes, key)
    return _products(traced.jaxpr) - _uncounted(plain.config, optimizer, shapes)


def _plain(config: Any) -> dict[str, Any]:
    """A config's fields, without rematerialisation and with plain attention."""
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name == "remat":
            value = "none"
        elif each.name == "attention" and isinstance(value, str):
            value = "xla"
        elif dataclasses.is_dataclass(value):
            value = _plain(value)
        fields[each.name] = value
    return fields


def _uncounted(config: Any, optimizer: Optimizer, batch: Mapping[str, Any]) -> float:
    """What the trace has above the causal half of attention and one set of logits."""
    decoder = getattr(config, "decoder", config)
    if not isinstance(decoder, ChameleonConfig) or "tokens" not in batch:
        return 0.0
    rows, length = batch["tokens"].shape
    upward = getattr(config, "vision", None) is not None or any(
        path.startswith("decoder") for path in optimizer.groups
    )
    products = 6 if upward else 2
    scores = decoder.layers * decoder.heads * decoder.head_dim * length**2 * rows
    logits = 2.0 * decoder.hidden * decoder.vocab_size * length * rows
    return products * scores + logits


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
            pairs = math.prod(kernel) / kernel[spec[0]]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * pairs
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            inner = [_products(each) for each in _inner(equation.params)]
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _inner(params: Mapping[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        values = value if isinstance(value, list | tuple) else (value,)
        opened = (getattr(each, "jaxpr", each) for each in values)
        found += [each for each in opened if hasattr(each, "eqns")]
    return found
