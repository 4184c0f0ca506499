"""FLOPs that a model's step needs, whatever is computed twice: the numerator of MFU.

Matrix products in the gradient's own trace, with nothing rematerialised and no batch in
portions. Attention's products count half where it is causal, over whole rows (packing
does not make it cheaper here), and what chunked losses compute again (logits of text
and codes, similarities) does not count. For a decoder that is trained whole this is 6 x
weights x tokens + 6 x layers x heads x head_dim x row x tokens, as MaxText counts
today.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.models import registry
from unitoken_jax.models.chameleon import ChameleonConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.registry import System
from unitoken_jax.models.siglip import SiglipConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.train.job import Job
from unitoken_jax.train.optimizer import Optimizer
from unitoken_jax.train.stage import Layout, make_step_update

_DEPTH = ("depth/embeddings", "depth/layers")
_PORTIONS = ("portions", "perceptual_portions")
FORMULA = (
    "MFU = matrix-product FLOPs of the forward pass and of the gradients that are "
    "wanted, attention halved where causal, nothing counted twice / (chips x peak "
    "bf16 FLOP/s x seconds)"
)


def count(
    job: Job,
    system: System,
    layout: Layout,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    companions: Mapping[str, Any],
) -> float:
    """FLOPs of one step of all chips, the adversary's among them.

    Args:
        job: the stage.
        system: its model.
        layout: of the stage; which parameters learn, and shapes of the state.
        batch: shapes of the global batch.
        companions: frozen networks with abstract parameters.
    """
    plain = registry.build(
        {"kind": system.kind, **_plain(system.config)}, "config.model"
    )
    whole = dataclasses.replace(
        job, train=dataclasses.replace(job.train, microbatches=1)
    )
    state = jax.tree.map(_shape, layout.abstract)
    shapes = {name: _shape(x) for name, x in batch.items()}
    networks = jax.tree.map(_shape, dict(companions))

    def update(state: TrainState, batch: Any, companions: Any) -> Any:
        rule = make_step_update(
            whole, plain, layout.optimizer, layout.adversary, companions
        )
        return rule(state.params, state.optimizer, batch, state.key, state.step)

    traced = jax.make_jaxpr(update)(state, shapes, networks).jaxpr
    # Gradients that nobody asks for, such as that of a frozen head, fall away.
    wanted, _ = dce_jaxpr(traced, [True] * len(traced.outvars))
    return _products(wanted) - _uncounted(plain.config, layout.optimizer, shapes)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type alone, for a trace that knows no mesh."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _plain(config: Any) -> dict[str, Any]:
    """A config's fields, whole: nothing computed again, and with plain attention."""
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name == "remat":
            value = "none"
        elif each.name == "attention" and isinstance(value, str):
            value = "xla"
        elif each.name in _PORTIONS:  # each is computed again for the gradient
            value = 1
        elif dataclasses.is_dataclass(value):
            value = _plain(value)
        fields[each.name] = value
    return fields


def _uncounted(config: Any, optimizer: Optimizer, batch: Mapping[str, Any]) -> float:
    """What the trace has above the causal half of attention and one set of logits."""

    def learns(*parts: str) -> bool:
        return any(path.startswith(parts) for path in optimizer.groups)

    match config:
        case LlamaGenConfig():
            rows, length, depths = batch["codes"].shape
            trunk = learns("classes", "codes", "layers")
            deep = trunk or learns("norm", *_DEPTH)
            return (
                _half(config.layers, config.hidden, (rows, length), trunk)
                + _half(
                    config.depth_layers, config.hidden, (rows * length, depths), deep
                )
                + 2.0 * config.hidden * config.codes * rows * length * depths
            )
        case UniTokMllmConfig():
            rows, pictures, length, depths = batch["codes"].shape
            places = batch["draws"].size
            decoder = config.decoder
            seen = learns("embedder/quantiser", "embedder/projection")
            upward = learns("decoder", "embedder")
            deep = upward or learns(*_DEPTH)
            width = max(config.projection, depths * config.code_width)
            heads = decoder.heads * decoder.head_dim
            return (
                _decoder(decoder, batch, upward)
                + _half(1, width, (rows * pictures, length), seen)
                + _half(config.depth_layers, heads, (places, depths), deep)
                + 2.0 * decoder.hidden * config.codes * places * depths
            )
        case UniTokConfig() if config.objective.contrasts:
            rows, length = batch["text"].shape
            text = config.text
            upward = learns("text")
            half = _half(text.layers, text.hidden, (rows, length), upward)
            return half + 2.0 * text.embed * rows**2
        case SiglipConfig():
            return 2.0 * config.embed * batch["text"].shape[0] ** 2
    decoder = getattr(config, "decoder", config)
    if not isinstance(decoder, ChameleonConfig) or "tokens" not in batch:
        return 0.0
    upward = getattr(config, "vision", None) is not None or learns("decoder")
    return _decoder(decoder, batch, upward)


def _decoder(config: ChameleonConfig, batch: Mapping[str, Any], upward: bool) -> float:
    """Of a decoder: half of its attention, and the logits of its text again."""
    rows, length = batch["tokens"].shape
    width = config.heads * config.head_dim
    logits = 2.0 * config.hidden * config.vocab_size * length * rows
    return _half(config.layers, width, (rows, length), upward) + logits


def _half(layers: int, width: int, shape: tuple[int, int], upward: bool) -> float:
    """Half of the attention of rows of a length, with its gradients if wanted."""
    rows, length = shape
    products = 6 if upward else 2
    return float(products) * layers * width * length**2 * rows


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


def _inner(params: Mapping[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        values = value if isinstance(value, list | tuple) else (value,)
        opened = (getattr(each, "jaxpr", each) for each in values)
        found += [each for each in opened if hasattr(each, "eqns")]
    return found
