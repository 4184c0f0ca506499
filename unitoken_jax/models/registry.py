"""From a config's `model` node to a trainable system.

A system is what the training loop, the planner and the converter know of a model: how
to make its parameters, what their axes are called, and what its loss is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from unitoken_jax import config as configs
from unitoken_jax.config import ConfigError
from unitoken_jax.models import llamagen, siglip, unitok_mllm, unitoken, vqgan

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class System:
    """One trainable model.

    Attributes:
        kind: its name in configs.
        config: its frozen config.
        module: the Linen module, for `module.apply({"params": params}, ...)`.
        loss: (params, batch, rng) → (loss, metrics), to be differentiated.
        init: rng → variables whose leaves are boxed with their axis names; needs no
            data.
    """

    kind: str
    config: Any
    module: nn.Module
    loss: Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]
    init: Callable[[jax.Array], Mapping[str, Any]]

    def init_params(self, rng: jax.Array) -> Params:
        """Parameters as a plain nested dict, float32; pure, to be jitted."""
        return _unboxed(self.init(rng)["params"])


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

    return System(kind, config, module, partial(loss, module), init)


def abstract_params(system: System) -> Params:
    """Shapes and types of the parameters, without making them.

    Returns:
        Nested dict of `jax.ShapeDtypeStruct`s. Call it outside any mesh.
    """
    return _unboxed(_abstract(system))


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


def _unboxed(tree: Any) -> Params:
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
