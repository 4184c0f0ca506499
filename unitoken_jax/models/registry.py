"""From a config's `model` node to a trainable system.

`KINDS` is the only place that lists models: another one is a module that offers
`system(config: ItsConfig) -> System`, and a line here.
"""

import importlib
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from flax.errors import FlaxError

from unitoken_jax.config import ConfigError, Dataclass, Kinds, build_kind
from unitoken_jax.models.system import Metrics, Params, System, is_boxed, unboxed

__all__ = ["KINDS", "MODELS", "Metrics", "Params", "System", "build", "unboxed"]

KINDS: dict[str, str] = {
    "vqgan": "unitoken_jax.models.vqgan",
    "siglip": "unitoken_jax.models.siglip",
    "unitoken": "unitoken_jax.models.unitoken",
    "unitok": "unitoken_jax.models.unitok",
    "unitok_mllm": "unitoken_jax.models.unitok_mllm",
    "llamagen": "unitoken_jax.models.llamagen",
}
"""Kind of a model → its module, which is imported when it is needed."""


def config_class(kind: str) -> type[Dataclass]:
    """Return the dataclass of a kind's config: what its `system` takes."""
    module = importlib.import_module(KINDS[kind])
    return typing.get_type_hints(module.system)["config"]


def system_of(kind: str, config: object) -> System:
    """Return the system of a kind whose config is built already."""
    module = importlib.import_module(KINDS[kind])
    return replace(module.system(config), kind=kind)


MODELS: Kinds[Dataclass] = Kinds("a model", KINDS, config_class)
"""What a field that holds the config of a model is annotated with."""


def make_system(config: Dataclass) -> System:
    """Return the system of a model's config."""
    return system_of(MODELS.of(config), config)


def build(node: object, path: str = "config.model") -> System:
    """Build the system that a config's `model` node describes.

    Args:
        node: dict-like, `kind` and the fields of that kind's config.
        path: where the node stands, for messages.

    Raises:
        ConfigError: unknown kind or field, or values that do not fit each other.
    """
    return make_system(build_kind(MODELS, node, path))


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
        if is_boxed(leaf):
            return leaf.names
        return (None,) * len(leaf.shape)

    return jax.tree.map(names, _abstract(system), is_leaf=is_boxed)


def _abstract(system: System) -> Params:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(system.init, key)["params"]
