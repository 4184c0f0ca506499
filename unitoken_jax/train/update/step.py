"""One training step as a pure function: gradients, guard, update.

If you are reading for the first time, start at `make_train_step`. A step is an *update*
(gradients and optimizers) wrapped by what every kind of training shares: the random key
of the step, the guard and the counting. `make_update` is the usual one: one loss, one
optimizer. An adversarial training supplies its own update with several of both.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.state import Params, TrainState
from unitoken_jax.ops.chunks import split
from unitoken_jax.runtime.pytree import PyTree, nest
from unitoken_jax.train.update.guard import GuardConfig, judge
from unitoken_jax.train.update.optimizer import Flat, Optimizer

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]]
"""(params, batch, key, *consulted) → (loss, metrics)."""
Update = Callable[..., tuple[TrainState, Metrics]]
"""Gradients and optimizers of one step, before it is judged.

Takes the state, a batch, the step's random key and what the loss consults besides, such
as frozen networks; returns the state with what was learned, and scalar metrics, among
them `loss` and `grad_norm`, which the guard judges.
"""
PostUpdate = Callable[[Params, Metrics], tuple[Params, Metrics]]


def make_train_step(
    update: Update, guard: GuardConfig
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return the step: (state, batch, *consulted) → (state, metrics), to be jitted.

    A refused step (see `guard.judge`) leaves what is learned as it was; the step counts
    on, so that the data and the schedule move on as well. Metrics gain `skipped` (all
    so far) and `consecutive_skips`.
    """

    def train_step(
        state: TrainState, batch: Batch, *consulted: PyTree
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        after, metrics = update(state, batch, key, *consulted)
        accept, guarded = judge(
            guard, state.guard, metrics["loss"], metrics["grad_norm"]
        )
        learned = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old), after.learned, state.learned
        )
        state = dataclasses.replace(
            state, step=state.step + 1, guard=guarded, **learned
        )
        counts = {
            "skipped": guarded.skipped,
            "consecutive_skips": guarded.consecutive,
        }
        return state, metrics | counts

    return train_step


def with_post_update(update: Update, settle: PostUpdate) -> Update:
    """Return `update` followed by what is set without a gradient.

    `settle` may take metrics that are no scalars and gives the parameters as they are
    to be, and scalars.
    """

    def follow(
        state: TrainState, batch: Batch, key: jax.Array, *consulted: PyTree
    ) -> tuple[TrainState, Metrics]:
        state, metrics = update(state, batch, key, *consulted)
        params, metrics = settle(state.params, metrics)
        return dataclasses.replace(state, params=params), metrics

    return follow


def make_update(loss: Loss, rule: Optimizer, microbatches: int = 1) -> Update:
    """Return the update of one optimizer `rule`, accumulating over `microbatches`.

    The gradient is that of the mean over all supervised targets: a microbatch counts
    by its `metrics['weight']` (1 if absent). A loss that compares elements of the batch
    (`System.whole_batch`) is another one in microbatches: `stage` refuses them. Metrics
    are averaged as `weight_of` says, and gain `loss`, `learning_rate` and the
    gradient's norms.
    """
    gradient = make_gradient(loss, rule, microbatches)

    def update(
        state: TrainState, batch: Batch, key: jax.Array, *consulted: PyTree
    ) -> tuple[TrainState, Metrics]:
        trainable, frozen = rule.split(state.params)
        gradients, metrics = gradient(state.params, batch, key, *consulted)
        trainable, opt_state = rule.update(
            gradients, state.opt_state, trainable, state.step
        )
        metrics |= {"learning_rate": rule.schedule(state.step)}
        metrics |= rule.norms(gradients)
        params = nest({**trainable, **frozen})
        return dataclasses.replace(state, params=params, opt_state=opt_state), metrics

    return update


def make_gradient(
    loss: Loss, rule: Optimizer, microbatches: int = 1
) -> Callable[..., tuple[Flat, Metrics]]:
    """Return what gives the gradients of `make_update` and its metrics.

    It takes (params, batch, key, *consulted), as the loss does.
    """

    def gradient(
        params: Params, batch: Batch, key: jax.Array, *consulted: PyTree
    ) -> tuple[Flat, Metrics]:
        trainable, frozen = rule.split(params)

        def evaluate(
            trainable: Flat, batch: Batch, key: jax.Array
        ) -> tuple[jax.Array, Metrics]:
            params = nest({**trainable, **frozen})
            value, metrics = loss(params, batch, key, *consulted)
            return value, {**metrics, "loss": value}

        return _accumulate(
            jax.grad(evaluate, has_aux=True), trainable, batch, key, microbatches
        )

    return gradient


def weight_of(name: str, metrics: Mapping[str, object]) -> str:
    """Return the name of the weight that a metric is a mean over.

    `text_loss` is a mean over `text_weight` targets if the loss says how many those
    are, like everything else over `weight`.
    """
    own = f"{name.rpartition('_')[0]}_weight"
    return own if own in metrics else "weight"


def is_weight(name: str) -> bool:
    """Say whether a metric is a number of targets rather than a mean over them."""
    return name == "weight" or name.endswith("_weight")


def _accumulate(
    gradient: Callable[[Flat, Batch, jax.Array], tuple[Flat, Metrics]],
    trainable: Flat,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
) -> tuple[Flat, Metrics]:
    """Return the weighted means of gradients and metrics over microbatches."""

    def evaluate(batch: Batch, key: jax.Array) -> tuple[Flat, Metrics]:
        gradients, metrics = gradient(trainable, batch, key)
        return gradients, {k: x.astype(jnp.float32) for k, x in metrics.items()}

    if microbatches == 1:
        return evaluate(batch, jax.random.fold_in(key, 0))

    def weigh(batch: Batch, key: jax.Array) -> tuple[Flat, Metrics]:
        gradients, metrics = evaluate(batch, key)
        metrics = {"weight": jnp.float32(1)} | metrics
        gradients = jax.tree.map(lambda x: metrics["weight"] * x, gradients)
        sums = {
            name: x if is_weight(name) else x * metrics[weight_of(name, metrics)]
            for name, x in metrics.items()
        }
        return gradients, sums

    def body(total: tuple, item: tuple[jax.Array, Batch]) -> tuple[tuple, None]:
        index, micro = item
        part = weigh(micro, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, part), None

    micros = {name: split(array, microbatches) for name, array in batch.items()}
    shapes = jax.eval_shape(weigh, {k: x[0] for k, x in micros.items()}, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(microbatches), micros))
    gradients, sums = total

    def mean(x: jax.Array, weight: jax.Array) -> jax.Array:
        # Without a single target there is nothing to divide.
        return x / jnp.where(weight > 0, weight, 1.0)

    metrics = {
        name: x if is_weight(name) else mean(x, sums[weight_of(name, sums)])
        for name, x in sums.items()
    }
    return jax.tree.map(lambda x: mean(x, sums["weight"]), gradients), metrics
