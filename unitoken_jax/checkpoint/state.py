"""The whole state of a training run, as one pytree, and where it lives on a mesh."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unitoken_jax.runtime.pytree import PyTree, flatten

Params = dict[str, PyTree]
"""Parameters, nested by the names of their modules."""


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
class DiscriminatorState:
    """A discriminator that a system is trained against.

    Attributes:
        params: the trainable parameters by path.
        opt_state: the state of their optimizer.
    """

    params: dict[str, jax.Array]
    opt_state: optax.OptState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes.

    Attributes:
        step: int32 scalar, the number of batches consumed, skipped ones included.
        params: nested dict of float32 masters, frozen ones included.
        opt_state: the state of the optimizer of the trainable parameters.
        ema: a moving average of `params`, nested alike; or None.
        discriminator: the discriminator and its optimizer; or None.
        key: the run's random key; step n draws from `fold_in(key, n)`.
        guard: running means and counts of skipped steps.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    discriminator: DiscriminatorState | None
    key: jax.Array
    guard: GuardState

    @property
    def learned(self) -> dict[str, PyTree]:
        """The fields that a refused step leaves as they were, by name."""
        return {name: getattr(self, name) for name in _LEARNED}


_LEARNED = ("params", "opt_state", "ema", "discriminator")


def init_guard() -> GuardState:
    """Return the state before the first step."""
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return GuardState(
        loss=zero, grad_norm=zero, accepted=none, skipped=none, consecutive=none
    )


def create(
    init_params: Callable[[jax.Array], Params],
    init_optimizer: Callable[[Params], optax.OptState],
    key: jax.Array,
    *,
    ema: bool = False,
    init_discriminator: Callable[[], DiscriminatorState] | None = None,
) -> TrainState:
    """Return the state before the first step; pure, to be jitted with shardings.

    Args:
        init_params: random key → parameters.
        init_optimizer: parameters → the state of their optimizer.
        key: the key of the run.
        ema: whether a moving average of the parameters is kept.
        init_discriminator: the discriminator before its first step, if there is one.
    """
    params_key, run_key = jax.random.split(key)
    params = init_params(params_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=init_optimizer(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        discriminator=init_discriminator() if init_discriminator else None,
        key=run_key,
        guard=init_guard(),
    )


def shardings(
    state: TrainState, params: Mapping[str, PyTree], replicated: jax.sharding.Sharding
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

    def place(path: tuple[object, ...], leaf: PyTree) -> jax.sharding.Sharding:
        for entry in path:
            name = getattr(entry, "key", None)
            if name in by_path and shapes[name] == leaf.shape:
                return by_path[name]
        return replicated

    everywhere = jax.tree.map(lambda _: replicated, state)
    return dataclasses.replace(
        everywhere,
        params=dict(params),
        opt_state=jax.tree_util.tree_map_with_path(place, state.opt_state),
        ema=None if state.ema is None else dict(params),
        discriminator=jax.tree_util.tree_map_with_path(place, state.discriminator),
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
