"""Training against a discriminator: two networks, two optimizers, one jitted step.

UniTok's discriminator and recipe (arXiv 2502.20321 and its published code). The
discriminator has its own field of the state, with its optimizer, so that the
parameters of the state stay those of the system alone. Until it begins neither its
losses nor its steps are computed.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.state import DiscriminatorState, Params, TrainState
from unitoken_jax.config import Amount, ConfigError
from unitoken_jax.models.perceptual.discriminator import (
    Discriminator,
    DiscriminatorConfig,
)
from unitoken_jax.models.system import FrozenModels, GeneratorLoss, unboxed
from unitoken_jax.ops import adversarial
from unitoken_jax.ops.adversarial import augment, blur
from unitoken_jax.runtime.pytree import flatten, nest
from unitoken_jax.train.update.optimizer import (
    Flat,
    Optimizer,
    OptimizerConfig,
    make_optimizer,
)
from unitoken_jax.train.update.step import Batch, Metrics, Update

BACKBONE = "backbone"
"""Name of the discriminator's frozen network among the frozen models."""
_SEED = 0xAD


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator, when it begins and how much it counts.

    Shares are of the stage's steps. The defaults are the published ones, but for
    `optimizer`, which a config gives.

    Attributes:
        optimizer: of the discriminator; its schedule begins with it.
        network: shape of the discriminator.
        frozen: whether its backbone is frozen and comes from a file, named by
            `frozen_models.backbone` of the stage; otherwise all of it learns.
        start: share of the steps before it begins; the first step it learns in is the
            one after that.
        ramp: share over which its weight grows to the full one.
        fade: share over which the blur before it fades out.
        weight: of the adversarial term, times the adaptive one.
        least: lower bound of the adaptive weight.
        most: upper bound.
        consistency: weight of the balanced consistency regularisation.
    """

    optimizer: OptimizerConfig
    network: DiscriminatorConfig = dataclasses.field(
        default_factory=DiscriminatorConfig
    )
    frozen: bool = True
    start: float = 0.375
    ramp: float = 0.03
    fade: float = 0.06
    weight: Amount = 0.4
    least: Amount = 0.015
    most: Amount = 1e4
    consistency: Amount = 4.0

    def __post_init__(self) -> None:
        for name in ("start", "ramp", "fade"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share of the steps, in [0, 1).")
        if not 0 <= self.least <= self.most:
            raise ValueError("least must not exceed most, nor be negative.")


@dataclasses.dataclass(frozen=True)
class DiscriminatorTrainer:
    """A discriminator ready to be trained for a stage.

    Attributes:
        config: its config.
        module: the network.
        optimizer: of its trainable parameters.
        start_step: the step, counted from 0, at which its ramp is still 0: it learns
            from the next one on.
        steps: of the stage.
        init_params: random key → all its parameters.
    """

    config: AdversarialConfig
    module: Discriminator
    optimizer: Optimizer
    start_step: int
    steps: int
    init_params: Callable[[jax.Array], Params]

    def init(self) -> DiscriminatorState:
        """Return its state before the first step; pure, to be jitted."""
        trainable, _ = self.optimizer.split(self.init_params(jax.random.key(_SEED)))
        state = self.optimizer.transform.init(trainable)
        return DiscriminatorState(trainable, state)

    def judge(
        self,
        trainable: Flat,
        frozen_models: FrozenModels,
        images: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """Scores float32 [B, S] of images [B, H, W, 3]."""
        params = nest(trainable)
        if self.config.frozen:
            params = params | {BACKBONE: frozen_models[BACKBONE].params}
        return self.module.apply({"params": params}, images, key)  # pyright: ignore[reportReturnType]

    def score(
        self,
        trainable: Flat,
        frozen_models: FrozenModels,
        images: jax.Array,
        fade: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """Scores [B, S] of images [B, H, W, 3], blurred by `fade` and augmented."""
        augment_key, fit_key = jax.random.split(key)
        shown = augment(augment_key, blur(images, fade))
        return self.judge(trainable, frozen_models, shown, fit_key)

    def ramp(self, step: jax.Array) -> jax.Array:
        """How much of its weight it has at a step; 0 is off."""
        return jnp.clip(self._since(step, self.config.ramp), 0.0, 1.0)

    def fade(self, step: jax.Array) -> jax.Array:
        """How much of the blur is left at a step."""
        return 1.0 - jnp.clip(self._since(step, self.config.fade), 0.0, 1.0)

    def _since(self, step: jax.Array, share: float) -> jax.Array:
        """Time since it began, in units of a share of the steps."""
        time = (step - self.start_step).astype(jnp.float32)
        # With a share of 0 the first step after its beginning counts in full.
        return time / max(share * self.steps, 1e-6)


def make_discriminator(
    config: AdversarialConfig, steps: int, config_path: str
) -> DiscriminatorTrainer:
    """Lay out a discriminator for a stage of `steps` steps.

    Raises:
        ConfigError: it would never begin, or its optimizer does not fit its
            parameters; `config_path` is the dotted path of `config`.
    """
    start_step = round(config.start * steps)
    if start_step >= steps - 1:  # at the step itself the ramp is 0
        raise ConfigError(
            f"{config_path}.start: {config.start} of {steps} steps leaves none to "
            "learn in; lower it."
        )
    module = Discriminator(config.network)
    side = 2 * config.network.backbone.patch

    def init_params(key: jax.Array) -> Params:
        return unboxed(module.init(key, jnp.zeros((1, side, side, 3)))["params"])

    shapes = jax.eval_shape(init_params, jax.eval_shape(lambda: jax.random.key(0)))
    paths = [
        path
        for path in flatten(shapes)
        if not (config.frozen and path.startswith(f"{BACKBONE}/"))
    ]
    optimizer = make_optimizer(
        config.optimizer, paths, steps - start_step, f"{config_path}.optimizer"
    )
    return DiscriminatorTrainer(
        config, module, optimizer, start_step, steps, init_params
    )


def make_adversarial_update(
    generator_loss: GeneratorLoss,
    rule: Optimizer,
    discriminator: DiscriminatorTrainer,
) -> Update:
    """Return the update of a system that draws and of its discriminator.

    The side that draws is judged by the discriminator as it was before the step; that
    then learns from the pictures that were made before the step.

    Metrics beside the system's: `deceit` (the adversarial term before its weights),
    `adaptive_weight`, and `discriminator/…`: `ramp`, `hinge`, `consistency`, `real` and
    `made` (shares of scores on the right side), its gradient's norm and learning
    rate.
    `loss` holds everything but the adversarial term, so that the guard's bound does not
    move with the discriminator.

    Args:
        generator_loss: the loss in parts.
        rule: the system's optimizer.
        discriminator: the discriminator.

    Returns:
        An update whose last argument are the frozen networks that both consult.
    """
    config = discriminator.config

    def update(
        state: TrainState, batch: Batch, key: jax.Array, frozen_models: FrozenModels
    ) -> tuple[TrainState, Metrics]:
        disc_state, step = state.discriminator, state.step
        assert disc_state is not None
        trainable, frozen = rule.split(state.params)
        keys = jax.random.split(jax.random.fold_in(key, 0), 3)
        ramp, fade = discriminator.ramp(step), discriminator.fade(step)

        def make(trainable: Flat) -> tuple[tuple, tuple]:
            result = generator_loss.forward(
                nest({**trainable, **frozen}), batch, keys[0]
            )
            beside = (result.original, result.last_layer_input, result.metrics)
            return (result.reconstruction, result.other_loss), beside

        def generator_term(made: jax.Array) -> jax.Array:
            scores = discriminator.score(
                disc_state.params, frozen_models, made, fade, keys[1]
            )
            return -jnp.mean(scores)

        (made, rest), vjp_fn, beside = jax.vjp(make, trainable, has_aux=True)
        real, before, metrics = beside
        compare = jax.value_and_grad(generator_loss.reconstruction_loss, has_aux=True)
        (distance, compared), grad = compare(made, real, frozen_models)
        deceit, term_grad = jax.lax.cond(
            ramp > 0,
            jax.value_and_grad(generator_term),
            lambda made: (jnp.float32(0), jnp.zeros_like(made)),
            made,
        )
        last = {**trainable, **frozen}[generator_loss.last_layer]
        _, last_layer_vjp = jax.vjp(
            lambda kernel: generator_loss.apply_last_layer(kernel, before), last
        )
        adaptive = adversarial.balance(
            last_layer_vjp(grad)[0],
            last_layer_vjp(term_grad)[0],
            config.least,
            config.most,
        )
        # Before it begins its gradient is exactly 0, whatever the weight.
        weight = ramp * config.weight * adaptive
        (gradients,) = vjp_fn((grad + weight * term_grad, jnp.ones_like(rest)))
        moved, opt_state = rule.update(gradients, state.opt_state, trainable, step)
        both = jnp.stack([real, made])
        after, judged = _learn(
            discriminator, frozen_models, disc_state, both, key=keys[2], step=step
        )
        norms = rule.norms(gradients)
        # A gradient that is not finite on either side refuses the step of both.
        finite = jnp.isfinite(judged["discriminator/grad_norm"])
        norms["grad_norm"] += jnp.where(finite, 0, jnp.nan)
        metrics = (
            {"loss": rest + distance}
            | metrics
            | compared
            | {
                "deceit": deceit,
                "adaptive_weight": jnp.where(ramp > 0, adaptive, 0),
                "discriminator/ramp": ramp,
            }
            | judged
            | {"learning_rate": rule.schedule(step)}
            | norms
        )
        state = dataclasses.replace(
            state,
            params=nest({**moved, **frozen}),
            opt_state=opt_state,
            discriminator=after,
        )
        return state, metrics

    return update


def _learn(
    discriminator: DiscriminatorTrainer,
    frozen_models: FrozenModels,
    disc_state: DiscriminatorState,
    both: jax.Array,
    *,
    key: jax.Array,
    step: jax.Array,
) -> tuple[DiscriminatorState, Metrics]:
    """Return the discriminator after its own step, if it has begun, and its metrics.

    Args:
        discriminator: the discriminator.
        frozen_models: frozen networks.
        disc_state: its parameters and the state of its optimizer.
        both: real pictures and made ones, [2, B, H, W, 3].
        key: random key.
        step: of the stage.
    """
    rule, time = discriminator.optimizer, step - discriminator.start_step

    def judge(heads: Flat) -> tuple[jax.Array, Metrics]:
        # Both kinds of pictures, then again without the blur: one program, four times,
        # each with its own chances.
        fade = discriminator.fade(step)
        fades = jnp.stack([fade, fade, jnp.zeros_like(fade), jnp.zeros_like(fade)])

        def one(item: tuple) -> jax.Array:
            number, fade, key = item
            return discriminator.score(
                heads, frozen_models, both[number % 2], fade, key
            )

        items = (jnp.arange(4), fades, jax.random.split(key, 4))
        on_real, on_made, *unblurred = jax.lax.map(one, items)
        consistency_loss = adversarial.consistency(on_real, unblurred[0])
        consistency_loss += adversarial.consistency(on_made, unblurred[1])
        hinge = adversarial.hinge(on_real, on_made)
        return hinge + discriminator.config.consistency * consistency_loss, {
            "discriminator/hinge": hinge,
            "discriminator/consistency": consistency_loss,
            "discriminator/real": jnp.mean((on_real > 0).astype(jnp.float32)),
            "discriminator/made": jnp.mean((on_made < 0).astype(jnp.float32)),
        }

    def learn(disc_state: DiscriminatorState) -> tuple[DiscriminatorState, Metrics]:
        grads, metrics = jax.grad(judge, has_aux=True)(disc_state.params)
        heads, state = rule.update(grads, disc_state.opt_state, disc_state.params, time)
        metrics["discriminator/grad_norm"] = rule.norms(grads)["grad_norm"]
        metrics["discriminator/learning_rate"] = rule.schedule(time)
        return DiscriminatorState(heads, state), metrics

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(learn, disc_state)[1]
    )
    return jax.lax.cond(
        discriminator.ramp(step) > 0,
        learn,
        lambda disc_state: (disc_state, zeros),
        disc_state,
    )
