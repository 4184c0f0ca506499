"""The program of a stage on its devices: what is computed, and where all of it lives.

A `TrainProgram` is known before anything is computed. It makes the first state and
compiles the step for the shapes of a batch; the planner compiles it for devices that
are not there.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unitoken_jax.checkpoint import state as states
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.checkpoint.state import Params, TrainState
from unitoken_jax.models import registry
from unitoken_jax.models.system import FrozenModels, System
from unitoken_jax.parallel import rows, rules
from unitoken_jax.parallel.mesh import Devices, make_mesh
from unitoken_jax.parallel.rows import Spec
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train import loop, preflight
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.update.adversarial import (
    DiscriminatorTrainer,
    make_adversarial_update,
)
from unitoken_jax.train.update.ema import with_ema
from unitoken_jax.train.update.optimizer import Optimizer, make_optimizer
from unitoken_jax.train.update.step import (
    Loss,
    Update,
    make_train_step,
    make_update,
    with_post_update,
)

log = logging.getLogger(__name__)

CompilerOptions = dict[str, Any]
"""Options of XLA by name; JAX's own type leaves out numbers."""
Images = Callable[[Params, loop.HostBatch], Mapping[str, np.ndarray]]
"""Draws what a model does with a batch, by name."""


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """What a stage computes and where it lives, before anything is computed.

    Attributes:
        stage: the stage's config.
        system: the model.
        mesh: the devices.
        params: a sharding for each parameter, nested.
        replicated: the sharding of what every device holds.
        optimizer: of the trainable parameters.
        discriminator: what the system is trained against, or None.
        create: random key → the state before the first step.
        abstract: shapes, types and shardings of the state.
    """

    stage: StageConfig
    system: System
    mesh: Mesh
    params: Params
    replicated: NamedSharding
    optimizer: Optimizer
    discriminator: DiscriminatorTrainer | None
    create: Callable[[jax.Array], TrainState]
    abstract: TrainState

    @property
    def shardings(self) -> TrainState:
        """The sharding of every leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    @property
    def compiler_options(self) -> CompilerOptions | None:
        """The stage's options for the compiler of its devices, None for others."""
        is_tpu = self.mesh.devices.flat[0].platform == "tpu"
        return (
            dict(self.stage.tpu_options) if is_tpu and self.stage.tpu_options else None
        )

    def init_state(self, sources: Mapping[str, tuple[Path, str]]) -> TrainState:
        """Return the state before the first step, with its parts of earlier stages.

        Args:
            sources: our subtree → (directory, subtree there), see `warm_start`.
        """
        # It runs once: on the CPU, optimizing it takes far longer than running it.
        is_cpu = self.mesh.devices.flat[0].platform == "cpu"
        options: CompilerOptions | None = None
        if is_cpu:
            options = {"xla_backend_optimization_level": 0}
        key = jax.random.key(self.stage.seed)
        with jax.set_mesh(self.mesh):
            create = jax.jit(self.create, out_shardings=self.shardings).lower(key)
            state = create.compile(compiler_options=options)(key)
        params = warm_start.warm_start(state.params, self.params, sources)
        ema = state.ema
        if ema is not None and sources:  # so far it is of what was replaced
            ema = jax.tree.map(jnp.copy, params)
        return dataclasses.replace(state, params=params, ema=ema)

    @functools.cached_property
    def update(self) -> Update:
        """The update of a step; what the loss consults is its last argument."""
        return make_step_update(
            self.stage, self.system, self.optimizer, self.discriminator
        )

    @functools.cached_property
    def step(self) -> jax.stages.Wrapped:
        """The step (state, batch, frozen_models) → (state, metrics), jitted.

        The state's buffers are given up by it. Call or lower it under the mesh.
        """
        return jax.jit(
            make_train_step(self.update, self.stage.guard),
            donate_argnums=0,
            out_shardings=(self.shardings, self.replicated),
        )

    def compile(
        self,
        spec: Spec,
        frozen_models: FrozenModels,
        images: Images | None = None,
    ) -> loop.Program:
        """Compile the step.

        Args:
            spec: of this host's part of a batch.
            frozen_models: what the loss consults.
            images: draws what the model does with a batch, or None.
        """
        began, size = time.monotonic(), self.stage.train.batch
        own = rows.local_rows(size, self.mesh)
        frozen_models = jax.device_put(dict(frozen_models), self.replicated)
        shapes = {k: ((size, *shape[1:]), dtype) for k, (shape, dtype) in spec.items()}
        batch = rows.abstract(shapes, self.mesh)
        with jax.set_mesh(self.mesh):
            lowered = self.step.lower(self.abstract, batch, frozen_models)
            compiled = lowered.compile(compiler_options=self.compiler_options)
        log.info("compiled in %.1f s", time.monotonic() - began)
        return loop.Program(
            lambda state, batch: compiled(state, batch, frozen_models),
            lambda batch: rows.place(batch, size, own, self.mesh),
            images,
            own.tolist(),
        )


def make_program(
    stage: StageConfig,
    system: System,
    config_path: str,
    devices: Devices | None,
) -> TrainProgram:
    """Say where everything of a stage will live.

    Args:
        stage: the stage's config.
        system: the model.
        config_path: dotted path of `stage` in the config, for messages.
        devices: to run on; all if None.
    """
    mesh = make_mesh(stage.mesh, devices)
    preflight.check_microbatches(stage, system, config_path)
    preflight.check_rows(stage, mesh, config_path)
    shapes = registry.abstract_params(system)
    axes = registry.logical_axes(system)
    params = rules.shardings(axes, shapes, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    optimizer = make_optimizer(
        stage.optimizer,
        flatten(shapes),
        stage.train.steps,
        f"{config_path}.optimizer",
        flatten(axes),
    )
    discriminator = preflight.check_discriminator(stage, system, config_path)

    def create(key: jax.Array) -> TrainState:
        return states.create(
            system.init_params,
            optimizer.init,
            key,
            ema=bool(stage.train.ema),
            init_discriminator=discriminator.init if discriminator else None,
        )

    state = jax.eval_shape(create, jax.random.key(0))
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        states.shardings(state, params, replicated),
    )
    return TrainProgram(
        *(stage, system, mesh, params, replicated, optimizer, discriminator),
        create=create,
        abstract=abstract,
    )


def make_step_update(
    stage: StageConfig,
    system: System,
    optimizer: Optimizer,
    discriminator: DiscriminatorTrainer | None,
) -> Update:
    """Return the update of a stage's step.

    Args:
        stage: the stage's config.
        system: the model.
        optimizer: of its parameters.
        discriminator: the discriminator, or None.

    Returns:
        An update that takes the frozen models behind the random key.
    """
    if discriminator is not None and system.generator_loss is not None:
        update = make_adversarial_update(
            system.generator_loss, optimizer, discriminator
        )
    else:
        update = make_update(loss_of(system), optimizer, stage.train.microbatches)
    if system.post_update is not None:
        update = with_post_update(update, system.post_update)
    if stage.train.ema:
        update = with_ema(update, stage.train.ema)
    return update


def loss_of(system: System) -> Loss:
    """Return the loss of a system, with the frozen models as its last argument."""
    if system.frozen_models:
        return system.loss
    return lambda params, batch, key, _: system.loss(params, batch, key)
