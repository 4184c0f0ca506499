"""The step: accumulation, freezing, skipping, and one step on any number of devices."""

import jax
import jax.numpy as jnp
import miniature
import numpy as np
import pytest
import tiny_unitoken
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from unitoken_jax.checkpoint import state as states
from unitoken_jax.models import registry
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.update.guard import GuardConfig
from unitoken_jax.train.update.optimizer import OptimizerConfig, make_optimizer
from unitoken_jax.train.update.step import make_train_step, make_update


def _step(optimizer, loss=miniature.loss, microbatches=1, guard=None):
    update = make_update(loss, optimizer, microbatches)
    return make_train_step(update, guard or GuardConfig())


def _run(step, state, steps, batch=miniature.batch):
    history = []
    for index in range(steps):
        state, metrics = step(state, batch(index))
        history.append({name: float(x) for name, x in metrics.items()})
    return state, history


def test_learns_and_reports() -> None:
    optimizer = miniature.make_optimizer(clip=None)
    step = jax.jit(_step(optimizer))
    state, history = _run(step, miniature.make_state(optimizer), 60)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["error"] == history[-1]["loss"]
    assert history[3]["weight"] == miniature.batch(3)["counted"].sum()
    assert history[3]["learning_rate"] == pytest.approx(float(optimizer.schedule(3)))
    assert int(state.step) == 60
    assert (history[-1]["skipped"], history[-1]["consecutive_skips"]) == (0, 0)


def test_frozen_parameters_do_not_move() -> None:
    optimizer = miniature.make_optimizer(weight_decay=0.5)
    before = miniature.make_state(optimizer)
    after, _ = _run(jax.jit(_step(optimizer)), before, 3)
    for name, moved in (("first", True), ("second", True), ("still", False)):
        old, new = before.params[name]["kernel"], after.params[name]["kernel"]
        assert np.array_equal(old, new) != moved


@pytest.mark.parametrize("microbatches", [2, 4])
def test_accumulation_equals_one_large_batch(microbatches) -> None:
    """Rows count alike however unevenly the supervised ones fall on microbatches."""
    optimizer = miniature.make_optimizer()
    start = miniature.make_state(optimizer)
    one, large = _run(jax.jit(_step(optimizer, miniature.quiet_loss)), start, 3)
    step = jax.jit(_step(optimizer, miniature.quiet_loss, microbatches))
    many, small = _run(step, start, 3)
    for a, b in zip(large, small, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6),
        one.params,
        many.params,
    )


@pytest.mark.parametrize("kind", ["codes only", "no encoder"])
def test_accumulation_takes_rows_that_show_no_pixels(kind) -> None:
    """Rows of codes alone have pixels of size 0, which divide by nothing."""
    model = tiny_unitoken.MODEL | ({"vision": None} if kind == "no encoder" else {})
    system = registry.build(model)
    params = system.init_params(jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten(params).items()}
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3), shapes, 3)
    batch = tiny_unitoken.batch(0)
    batch["feature_index"] = np.full_like(batch["feature_index"], -1)
    batch["pixels"] = batch["pixels"][:, :0]
    key = jax.random.key(1)
    state = states.create(lambda _: params, optimizer.init, key)
    whole, parts = (
        jax.jit(make_update(system.loss, optimizer, count))(state, batch, key)[1]
        for count in (1, 4)
    )
    assert float(whole["grad_norm"]) > 0
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-4), name


def test_a_batch_without_targets_changes_nothing_but_the_step() -> None:
    optimizer = miniature.make_optimizer()
    start = miniature.make_state(optimizer)
    step = jax.jit(_step(optimizer, microbatches=4))
    batch = miniature.batch(0) | {"counted": np.zeros(16, np.int32)}
    end, metrics = step(start, batch)
    assert (float(metrics["loss"]), float(metrics["weight"])) == (0.0, 0.0)
    jax.tree.map(np.testing.assert_array_equal, start.params, end.params)


def test_parts_of_a_loss_are_means_over_their_own_targets() -> None:
    """Two microbatches, the second without any text."""

    def loss(params, batch, key):
        value, metrics = miniature.quiet_loss(params, batch, key)
        text = jnp.sum(batch["text"])
        part = jnp.sum(batch["text"] * batch["value"]) / jnp.maximum(text, 1.0)
        return value, metrics | {"text_loss": part, "text_weight": text}

    optimizer = miniature.make_optimizer()
    batch = miniature.batch(0, rows=4)
    batch["text"] = np.array([1, 0, 1, 0], np.float32)
    batch["value"] = np.array([2, 9, 4, 9], np.float32)
    step = _step(optimizer, loss, microbatches=2)
    _, metrics = jax.jit(step)(miniature.make_state(optimizer), batch)
    assert (float(metrics["text_loss"]), float(metrics["text_weight"])) == (3.0, 2.0)


def test_non_finite_steps_are_skipped_whole() -> None:
    optimizer = miniature.make_optimizer()
    step = jax.jit(_step(optimizer))
    start, _ = _run(step, miniature.make_state(optimizer), 2)
    poison = miniature.batch(2)
    poison["input"][3] = np.nan
    end, metrics = step(start, poison | {"counted": np.ones(16, np.int32)})
    assert (int(metrics["skipped"]), int(metrics["consecutive_skips"])) == (1, 1)
    jax.tree.map(np.testing.assert_array_equal, start.params, end.params)
    jax.tree.map(np.testing.assert_array_equal, start.opt_state, end.opt_state)
    assert int(end.step) == 3
    _, metrics = step(end, miniature.batch(3))
    assert (int(metrics["skipped"]), int(metrics["consecutive_skips"])) == (1, 0)
    assert np.isfinite(float(metrics["loss"]))


def test_steps_draw_different_noise_reproducibly() -> None:
    optimizer = miniature.make_optimizer()
    step = jax.jit(_step(optimizer))
    start = miniature.make_state(optimizer)
    fixed = miniature.batch(0)
    later = states.TrainState(**{**vars(start), "step": jnp.int32(1)})
    losses = [float(step(s, fixed)[1]["loss"]) for s in (start, start, later)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("microbatches", [1, 2])
def test_eight_devices_do_as_one(microbatches) -> None:
    """Parameters sharded over fsdp, rows over data and fsdp: the same loss curve."""
    optimizer = miniature.make_optimizer()
    start = miniature.make_state(optimizer)
    step = _step(optimizer, microbatches=microbatches)
    one, expected = _run(jax.jit(step), start, 5)

    axes = ("data", "fsdp")
    mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)
    replicated = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda _: NamedSharding(mesh, PartitionSpec("fsdp")), start.params
    )
    places = states.shardings(start, params, replicated)
    moments = places.opt_state[1].mu
    assert moments["first/kernel"].spec == PartitionSpec("fsdp")
    rows = NamedSharding(mesh, PartitionSpec(axes))
    with jax.set_mesh(mesh):
        sharded = jax.jit(step, out_shardings=(places, replicated))
        many, actual = _run(
            sharded,
            jax.device_put(start, places),
            5,
            lambda index: jax.device_put(miniature.batch(index), rows),
        )
    assert len(many.params["first"]["kernel"].sharding.device_set) == 8
    for a, b in zip(expected, actual, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        one.params,
        jax.device_get(many.params),
    )
