"""Where the arrays of a state lie in a checkpoint, also in those of earlier versions.

An array is stored under its path in `TrainState`, 'params/decoder/head/kernel'. Earlier
versions kept all but the parameters in a nest of their own under 'optimizer'.
"""

import dataclasses

import jax

from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.renamed import parameter
from unitoken_jax.runtime.pytree import PyTree

# Beginning of a path in checkpoints of earlier versions → what it is now; the first
# that fits counts.
_EARLIER = {
    "optimizer/average": "ema",
    "optimizer/rest/adversary/params": "discriminator/params",
    "optimizer/rest/adversary/optimizer": "discriminator/opt_state",
    "optimizer/rest/model": "opt_state",
    "optimizer/rest": "opt_state",
    "optimizer/adversary/params": "discriminator/params",
    "optimizer/adversary/optimizer": "discriminator/opt_state",
    "optimizer/model": "opt_state",
    "optimizer": "opt_state",
}


def current(path: str) -> str:
    """Return the path in `TrainState` of an array that a checkpoint has at `path`."""
    for old, new in _EARLIER.items():
        if path == old or path.startswith(f"{old}/"):
            path = new + path.removeprefix(old)
            break
    return parameter(path)


def stored(state: TrainState) -> dict[str, PyTree]:
    """Return the fields of a state that a checkpoint has: those that are not None."""
    fields = {field.name: getattr(state, field.name) for field in _FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


_FIELDS = dataclasses.fields(TrainState)


def by_path(tree: PyTree) -> dict[str, PyTree]:
    """Return the leaves of a state, or of what a checkpoint holds, by `current`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {current(joined(keys)): leaf for keys, leaf in leaves}


def joined(keys: tuple[object, ...]) -> str:
    """Return a path of keys with slashes between them."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def is_earlier(saved: PyTree) -> bool:
    """Say whether any path in a tree is that of an earlier version."""
    leaves = jax.tree_util.tree_leaves_with_path(saved)
    paths = [joined(keys) for keys, _ in leaves]
    return any(current(path) != path for path in paths)


def arranged(values: PyTree, like: PyTree) -> PyTree:
    """Return the leaves of one tree, found by `current`, in the structure of another.

    Raises:
        KeyError: a leaf of `like` has no counterpart.
    """
    found = by_path(values)
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: found[current(joined(keys))], like
    )
