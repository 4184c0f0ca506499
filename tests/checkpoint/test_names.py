"""Checkpoints of earlier versions, whose arrays lie elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import miniature
import numpy as np
import pytest

from unitoken_jax.checkpoint import names
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import state as states
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.checkpoint.state import DiscriminatorState, TrainState
from unitoken_jax.runtime.pytree import flatten

OPTIMIZER = miniature.make_optimizer()


def state(*, ema: bool, discriminator: bool) -> TrainState:
    """A state of which no two arrays are equal."""
    fresh = miniature.make_state(OPTIMIZER)
    if ema:
        fresh = dataclasses.replace(fresh, ema=jax.tree.map(jnp.copy, fresh.params))
    if discriminator:
        heads = {"heads/0/kernel": jnp.ones((2, 3))}
        moments = (jnp.int32(0), {"heads/0/kernel": jnp.zeros((2, 3))})
        fresh = dataclasses.replace(
            fresh, discriminator=DiscriminatorState(heads, moments)
        )
    leaves, tree = jax.tree.flatten(dataclasses.replace(fresh, step=None, key=None))
    filled = [jnp.full_like(x, i) for i, x in enumerate(leaves)]
    filled = jax.tree.unflatten(tree, filled)
    return dataclasses.replace(filled, step=jnp.int32(3), key=fresh.key)


def earlier(state: TrainState) -> dict:
    """The fields of a state as they were called and nested before."""
    kept = state.opt_state
    if (beside := state.discriminator) is not None:
        side = {"params": beside.params, "optimizer": beside.opt_state}
        kept = {"model": kept, "adversary": side}
    if state.ema is not None:
        kept = {"average": flatten(state.ema), "rest": kept}
    fields = {name: getattr(state, name) for name in ("step", "params", "key", "guard")}
    return {**fields, "optimizer": kept}


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("discriminator", [False, True])
def test_are_read_whole_and_by_parameter(
    tmp_path, monkeypatch, ema, discriminator
) -> None:
    before = state(ema=ema, discriminator=discriminator)
    config = CheckpointConfig()
    with monkeypatch.context() as patch, Checkpointer(tmp_path, config) as writer:
        patch.setattr(names, "stored", earlier)
        writer.save(before, 48, {"config": {}})
        writer.wait()
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), before
    )
    with Checkpointer(tmp_path, config) as reader:
        restored = reader.restore(abstract)
    assert restored is not None
    assert restored.position == 48
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(states.plain(a), states.plain(b)),
        restored.state,
        before,
    )
    for average in (False, True)[: 1 + ema]:
        found, _ = checkpoints.restore_params(tmp_path, ema=average)
        wanted = before.ema if average else before.params
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    if not ema:
        with pytest.raises(checkpoints.CheckpointError, match="holds no average"):
            checkpoints.restore_params(tmp_path, ema=True)


def test_the_table_changes_whole_names_alone() -> None:
    assert names.current("optimizer/1/mu/decoder/head") == "opt_state/1/mu/decoder/head"
    assert names.current("optimizers/1") == "optimizers/1"
    assert names.current("params/optimizer/average") == "params/optimizer/average"
