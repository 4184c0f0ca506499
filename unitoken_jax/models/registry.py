"""From a config's `model` node to a trainable system.

A system is what the training loop, the planner and the converter know of a model: how
to make its parameters, what their axes are called, and what its loss is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import FlaxError

from unitoken_jax import config as configs
from unitoken_jax.config import ConfigError
from unitoken_jax.models import (
    llamagen,
    siglip,
    unitok,
    unitok_mllm,
    unitok_objective,
    unitoken,
    vqgan,
)
from unitoken_jax.models.frozen import Companions

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class Drawing:
    """A loss in two parts, between which an adversary can stand.

    Attributes:
        make: (params, batch, rng) → what is drawn, see `unitok_objective.Made`.
        compare: (made, real, companions) → (distance, metrics).
        last: path of the last layer's kernel, whose gradients balance both sides.
        finish: (kernel, what that layer sees) → what is drawn, up to a bias.
    """

    make: Callable[[Params, Batch, jax.Array], unitok_objective.Made]
    compare: Callable[[jax.Array, jax.Array, Companions], tuple[jax.Array, Metrics]]
    last: str
    finish: Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class System:
    """One trainable model.

    Attributes:
        kind: its name in configs.
        config: its frozen config.
        module: the Linen module, for `module.apply({"params": params}, ...)`.
        loss: (params, batch, rng) → (loss, metrics), to be differentiated; a system
            with companions takes them as a fourth argument.
        init: rng → variables whose leaves are boxed with their axis names; needs no
            data.
        companions: names of the frozen networks that its loss consults.
        settle: (params, metrics) → (params, metrics), what is set after a step without
            a gradient, and the metrics of that; or None.
        drawing: the loss in the parts that an adversary needs, if it makes pictures.
        whole_batch: whether the loss compares elements of a batch with each other, so
            that it is another one in microbatches.
    """

    kind: str
    config: Any
    module: nn.Module
    loss: Callable[..., tuple[jax.Array, Metrics]]
    init: Callable[[jax.Array], Mapping[str, Any]]
    companions: tuple[str, ...] = ()
    settle: Callable[[Params, Metrics], tuple[Params, Metrics]] | None = None
    drawing: "Drawing | None" = None
    whole_batch: bool = False

    def init_params(self, rng: jax.Array) -> Params:
        """Parameters as a plain nested dict, float32; pure, to be jitted."""
        return unboxed(self.init(rng)["params"])


def build(node: Any, path: str = "config.model") -> System:
    """Builds the system that a config's `model` node describes.

    Args:
        node: dict-like, `kind` and the fields of that kind's config.
        path: where the node stands, for messages.

    Raises:
        ConfigError: unknown kind or field, or values that do not fit each other.
    """
    fields = configs.plain(node)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigError(
            f"{path}.kind is {kind!r}{configs.nearest(str(kind), _KINDS)}"
        )
    config_class, module_class, loss, inputs = _KINDS[kind]
    config = configs.build(config_class, fields, path)
    module = module_class(config)

    def init(rng: jax.Array) -> Mapping[str, Any]:
        return module.init(rng, **inputs(config))

    system = System(
        kind,
        config,
        module,
        partial(loss, module),
        init,
        # Configs of losses that may do so have it as a property.
        whole_batch=getattr(config, "whole_batch", False),
    )
    return _with_unitok_parts(system) if kind == "unitok" else system


def _with_unitok_parts(system: System) -> System:
    """What UniTok's training has beside a loss."""
    module: Any = system.module
    objective = system.config.objective
    drawing = Drawing(
        make=partial(unitok_objective.make, module),
        compare=partial(unitok_objective.compare, objective),
        last=unitok_objective.LAST_LAYER,
        finish=partial(unitok_objective.finish, module),
    )
    return replace(
        system,
        companions=objective.companions,
        settle=partial(unitok_objective.settle, module),
        drawing=drawing if objective.reconstructs else None,
        whole_batch=objective.whole_batch,
    )


def abstract_params(system: System) -> Params:
    """Shapes and types of the parameters, without making them.

    Returns:
        Nested dict of `jax.ShapeDtypeStruct`s. Call it outside any mesh.
    """
    return unboxed(_abstract(system))


def check_shapes(
    system: System,
    path: str,
    shapes: Callable[[System], Params] = abstract_params,
) -> Params:
    """Return `abstract_params`, or say that a model's fields do not fit each other.

    Args:
        system: the model.
        path: of its node in the config, for messages.
        shapes: gives the shapes.

    Raises:
        ConfigError: there are no parameters of such shapes.
    """
    try:
        return shapes(system)
    except (ArithmeticError, LookupError, TypeError, ValueError, FlaxError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"{path}: no {system.kind} can be made of these fields, which do not fit "
            f"each other: {said[:300]}."
        ) from error


def logical_axes(system: System) -> Params:
    """Names of every parameter's axes, for `parallel.rules.shardings`.

    Returns:
        The tree of `abstract_params`, of tuples of names. Call it outside any mesh.
    """

    def names(leaf: Any) -> tuple[str | None, ...]:
        if _is_boxed(leaf):
            return leaf.names
        return (None,) * len(leaf.shape)

    return jax.tree.map(names, _abstract(system), is_leaf=_is_boxed)


def _abstract(system: System) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(system.init, key)["params"]


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def unboxed(tree: Any) -> Params:
    """Variables without the names of their axes."""
    # Not nn.unbox: under a mesh that would constrain what it unboxes.
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.Partitioned) else leaf,
        tree,
        is_leaf=_is_boxed,
    )


def _vqgan_inputs(config: vqgan.VQGANConfig) -> dict[str, Any]:
    size = config.resolution
    return {"images": jnp.zeros((1, size, size, config.in_channels))}


def _siglip_inputs(config: siglip.SiglipConfig) -> dict[str, Any]:
    size = config.vision.image
    return {
        "images": jnp.zeros((1, size, size, 3)),
        "text": jnp.zeros((1, config.text.length), jnp.int32),
    }


def _unitok_inputs(config: unitok.UniTokConfig) -> dict[str, Any]:
    size = 2 * config.vision.factor
    return {
        "images": jnp.zeros((1, size, size, 3)),
        "text": jnp.zeros((1, config.text.length), jnp.int32),
    }


def _initialise(config: Any) -> dict[str, Any]:
    del config
    return {"method": "initialise"}


_KINDS: dict[str, tuple[type, type, Callable[..., Any], Callable[..., Any]]] = {
    "vqgan": (vqgan.VQGANConfig, vqgan.VQGAN, vqgan.loss, _vqgan_inputs),
    "siglip": (siglip.SiglipConfig, siglip.Siglip, siglip.loss, _siglip_inputs),
    "unitoken": (
        unitoken.UniTokenConfig,
        unitoken.UniToken,
        unitoken.loss,
        _initialise,
    ),
    "unitok": (
        unitok.UniTokConfig,
        unitok.UniTok,
        unitok_objective.loss,
        _unitok_inputs,
    ),
    "unitok_mllm": (
        unitok_mllm.UniTokMllmConfig,
        unitok_mllm.UniTokMllm,
        unitok_mllm.loss,
        _initialise,
    ),
    "llamagen": (
        llamagen.LlamaGenConfig,
        llamagen.LlamaGen,
        llamagen.loss,
        _initialise,
    ),
}
