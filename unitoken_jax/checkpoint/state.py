"""The whole state of a training run, as one pytree, and where it lives on a mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.runtime.pytree import flatten

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuardState:
    """Running means (float32) and counts (int32), scalars on the device."""

    loss: jax.Array
    grad_norm: jax.Array
    accepted: jax.Array
    skipped: jax.Array
    consecutive: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes.

    step: int32 scalar, the number of batches consumed, skipped ones included.
    params: nested dict of float32 masters, frozen ones included.
    optimizer: what the update keeps between steps; any pytree.
    key: the run's random key; step n draws from `fold_in(key, n)`.
    guard: running means and counts of skipped steps.
    """

    step: jax.Array
    params: Params
    optimizer: Any
    key: jax.Array
    guard: GuardState


def init_guard() -> GuardState:
    """Return the state before the first step."""
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return GuardState(
        loss=zero, grad_norm=zero, accepted=none, skipped=none, consecutive=none
    )


def create(
    init_params: Callable[[jax.Array], Params],
    init_optimizer: Callable[[Params], Any],
    key: jax.Array,
) -> TrainState:
    """Return the state before the first step; pure, to be jitted with shardings."""
    params_key, run_key = jax.random.split(key)
    params = init_params(params_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=init_optimizer(params),
        key=run_key,
        guard=init_guard(),
    )


def shardings(
    state: TrainState, params: Mapping[str, Any], replicated: jax.sharding.Sharding
) -> TrainState:
    """Return the sharding of every leaf of an abstract state.

    Args:
        state: the state, of arrays or `jax.ShapeDtypeStruct`s.
        params: a sharding for every parameter, nested like them.
        replicated: the sharding of everything that is not a parameter.

    Moments and the like, kept under the path of their parameter and of its shape, are
    sharded as it is.
    """
    by_path = flatten(params)
    shapes = {path: leaf.shape for path, leaf in flatten(state.params).items()}

    def place(path: tuple[Any, ...], leaf: Any) -> jax.sharding.Sharding:
        for entry in path:
            name = getattr(entry, "key", None)
            if name in by_path and shapes[name] == leaf.shape:
                return by_path[name]
        return replicated

    everywhere = jax.tree.map(lambda _: replicated, state)
    return dataclasses.replace(
        everywhere,
        params=dict(params),
        optimizer=jax.tree_util.tree_map_with_path(place, state.optimizer),
    )


def plain(leaf: jax.Array) -> jax.Array:
    """Return an array of numbers; typed random keys are not."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def hold(state: TrainState) -> Callable[[], TrainState]:
    """Copy a state to the host; return what puts the copy on the devices again."""
    leaves, tree = jax.tree.flatten(state)
    held = [_hold(leaf) for leaf in leaves]
    return lambda: jax.tree.unflatten(tree, [give_back() for give_back in held])


def _hold(leaf: jax.Array) -> Callable[[], jax.Array]:
    array = plain(leaf)
    shape, sharding, is_key = array.shape, array.sharding, array is not leaf
    shards: dict[str, np.ndarray] = {}
    for shard in array.addressable_shards:
        if str(shard.index) not in shards:  # the devices may hold copies
            shards[str(shard.index)] = np.array(shard.data)

    def give_back() -> jax.Array:
        copied = jax.make_array_from_callback(shape, sharding, lambda i: shards[str(i)])
        return jax.random.wrap_key_data(copied) if is_key else copied

    return give_back
