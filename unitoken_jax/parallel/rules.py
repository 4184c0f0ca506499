"""One table from logical axis names to mesh axes, and everything that reads it.

Parameters and activations name their axes; this file says which mesh axes divide them.
Unknown names are errors. An axis that its mesh axes do not divide evenly is an error
too, unless its rule allows to leave it whole, or to fewer of them; this is reported
once.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import KeyPath

from unitoken_jax.config import UserError, nearest

_log = logging.getLogger(__name__)

MeshAxes = str | tuple[str, ...] | None
Shaped = jax.Array | jax.ShapeDtypeStruct


class ShardingError(UserError, ValueError):
    """An axis name that is unknown, or a size that the mesh does not divide."""


class Rule(NamedTuple):
    """Mesh axes of one logical axis; `whole` allows sizes that they do not divide.

    Such a size is divided over as many of the first of them as divide it.
    """

    mesh: tuple[str, ...] = ()
    whole: bool = False


RULES: dict[str, Rule] = {
    # parameters
    "embed": Rule(("fsdp",), whole=True),
    "mlp": Rule(("tensor",)),
    # Of kernels that lead back to `embed`, what they sum over is divided if it can be:
    # libtpu scatters gradients along that axis in smaller shards than along the last.
    "mlp_contracted": Rule(("tensor", "fsdp"), whole=True),
    "heads_contracted": Rule(("tensor", "fsdp"), whole=True),
    "heads": Rule(("tensor",)),
    "kv_heads": Rule(("tensor",)),
    "head_dim": Rule(),
    "vocab": Rule(("tensor",), whole=True),
    "layers": Rule(),
    "conv_in": Rule(),
    "conv_out": Rule(("fsdp",), whole=True),
    "patch": Rule(),
    "position": Rule(),
    "code": Rule(),
    "norm": Rule(),
    # activations
    "batch": Rule(("slice", "data", "fsdp"), whole=True),
    "length": Rule(("sequence",), whole=True),
    # Images of packed rows. Their own rows are short and of odd lengths (729), so the
    # devices that share a row's length share its images instead.
    "views": Rule(("slice", "data", "fsdp", "sequence"), whole=True),
    "row_heads": Rule(("tensor", "sequence")),  # of whole rows, while they attend
    "width": Rule(),
}
"""Logical axis → mesh axes. The first axis of an array to claim a mesh axis has it."""


def partition(
    names: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    what: str = "an array",
) -> PartitionSpec:
    """Resolves the logical axes of one array.

    Args:
        names: logical name of every axis; None for an axis that is never divided.
        shape: its shape.
        mesh: the mesh; rules naming axes that it lacks leave the array whole there.
        what: the array's name for messages.

    Raises:
        ShardingError: an unknown name, another number of names than axes, or a size
            that the mesh does not divide and the rule does not excuse.
    """
    if len(names) != len(shape):
        raise ShardingError(
            f"{what} has shape {tuple(shape)} but {len(names)} axis names "
            f"{tuple(names)}; name every axis, with None for one that stays whole"
        )
    entries: list[MeshAxes] = []
    taken: set[str] = set()
    left: list[tuple[str, set[str]]] = []
    for name, size in zip(names, shape, strict=True):
        rule = _rule(name, what)
        axes = tuple(
            axis
            for axis in rule.mesh
            if axis not in taken and mesh.shape.get(axis, 1) > 1
        )
        shards = _count(mesh, axes)
        if size % shards:
            message = (
                f"{what} of shape {tuple(shape)}: axis {name!r} of {size} is not "
                f"divisible by the {shards} shards of mesh axes {', '.join(axes)}"
            )
            if not rule.whole:
                raise ShardingError(
                    f"{message}; choose a mesh whose {axes[-1]} divides it"
                )
            wanted = set(axes)
            while size % _count(mesh, axes):
                axes = axes[:-1]
            fate = f"is divided over {', '.join(axes)} only" if axes else "stays whole"
            left.append((f"{message}; it {fate}", wanted - set(axes)))
        taken.update(axes)
        entries.append(axes[0] if len(axes) == 1 else axes or None)
    for message, without in left:
        if without - taken:  # no later axis of the array took them
            _report(message)
    return PartitionSpec(*entries)


def shardings(axes: object, shapes: object, mesh: Mesh) -> Any:
    """Where every parameter lives.

    Args:
        axes: tree of tuples of logical names.
        shapes: the same tree, of arrays or `jax.ShapeDtypeStruct`s.
        mesh: the mesh.

    Returns:
        The same tree, of `NamedSharding`s.

    Raises:
        ShardingError: as `partition`, with the parameter's path.
    """

    def place(
        path: KeyPath, leaf: Shaped, names: tuple[str | None, ...]
    ) -> NamedSharding:
        what = "parameter " + jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition(names, leaf.shape, mesh, what))

    return jax.tree_util.tree_map_with_path(place, shapes, axes)


def batch_shardings(batch: object, mesh: Mesh) -> Any:
    """Where a batch lives: its first axis divided, nothing else.

    Args:
        batch: tree of arrays or shapes whose first axis is the batch.
        mesh: the mesh.

    Returns:
        The same tree, of `NamedSharding`s.
    """

    def place(path: KeyPath, leaf: Shaped) -> NamedSharding:
        what = "batch entry " + jax.tree_util.keystr(path, simple=True, separator="/")
        names = ("batch", *(None,) * (len(leaf.shape) - 1))
        return NamedSharding(mesh, partition(names, leaf.shape, mesh, what))

    return jax.tree_util.tree_map_with_path(place, batch)


def constrain(array: jax.Array, *names: str | None) -> jax.Array:
    """Holds an activation to the rules, inside jit; does nothing without a mesh.

    Args:
        array: the activation.
        *names: logical name of every axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return array
    spec = partition(names, array.shape, mesh, "an activation")
    return jax.lax.with_sharding_constraint(array, spec)


def num_shards(name: str, size: int) -> int:
    """Into how many parts the mesh in force divides an axis; 1 without a mesh.

    Args:
        name: of the logical axis.
        size: its size.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    (axes,) = partition((name,), (size,), mesh, "an activation")
    return _count(mesh, (axes,) if isinstance(axes, str) else axes or ())


def _rule(name: str | None, what: str) -> Rule:
    if name is None:
        return Rule()
    if name not in RULES:
        raise ShardingError(
            f"{what} names the unknown axis {name!r}{nearest(name, RULES)}"
        )
    return RULES[name]


def _count(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    count = 1
    for axis in axes:
        count *= mesh.shape[axis]
    return count


@functools.lru_cache(maxsize=1024)
def _report(message: str) -> None:
    """Logs a message the first time it occurs."""
    _log.warning(message)
