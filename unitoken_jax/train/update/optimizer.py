"""AdamW or Muon by groups of parameters, chosen by patterns over their paths.

What trains is data: groups name freezing, the rule, learning-rate scale and weight
decay for the parameters whose path ('decoder/layers/attention/query/kernel') matches in
full. Every parameter belongs to exactly one group and every pattern matches something.
Frozen parameters get no gradient and no optimizer state, so both live on a flat
dictionary that holds the trainable paths only. Decoupled decay: Loshchilov & Hutter,
arXiv 1711.05101; Muon: Jordan 2024, scaled as in arXiv 2502.16982.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from unitoken_jax.config import (
    NONE_IS_DEFAULT,
    Amount,
    ConfigError,
    Natural,
    Positive,
    ShareBelowOne,
    below_one,
    shown,
)
from unitoken_jax.runtime.pytree import PyTree, flatten
from unitoken_jax.train.update import schedule as schedules

Flat = dict[str, jax.Array]
Axes = Mapping[str, tuple[str | None, ...]]
"""Path of a parameter → the logical names of its axes."""

_STACKED = "layers"  # axis along which equal layers are stacked, each its own matrix
_HEADS = ("heads", "kv_heads")  # first axis of what a projection to heads gives
_MUON_RMS = 0.2  # root mean square of an update, that of AdamW's in practice


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters whose path matches `pattern` and not `exclude`, both in full.

    Attributes:
        pattern: an expression.
        exclude: another; "" excludes nothing.
        rule: "adamw", or "muon", which makes the momentum of every matrix (and of
            every convolution's, from all it reads to its outputs) orthogonal before
            it is applied. Updates of both are of one size, so that one learning rate
            serves both. It is for kernels of hidden layers; embeddings, heads, norms
            and biases stay with AdamW.
        momentum: of "muon"; None is 0.95.
        lr_scale: factor of the learning rate.
        weight_decay: None takes the optimizer's.
        frozen: whether they stay as they are.
    """

    pattern: str
    exclude: str = ""
    rule: Literal["adamw", "muon"] = "adamw"
    momentum: ShareBelowOne | None = None
    lr_scale: Amount = 1.0
    weight_decay: Amount | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        for field in ("pattern", "exclude"):
            _check_expression(field, getattr(self, field))
        _check(lr_scale=self.lr_scale, weight_decay=self.weight_decay or 0.0)
        if self.momentum is not None and self.rule != "muon":
            raise ValueError(
                f"momentum is of the rule 'muon', and the group's is {self.rule!r} "
                "(see b1); leave it out."
            )
        own = self.lr_scale != 1.0 or self.weight_decay or self.rule != "adamw"
        if self.frozen and own:
            raise ValueError(
                "the group is frozen, so that its rule, lr_scale and weight_decay "
                "would change nothing; leave them out."
            )

    def matches(self, path: str) -> bool:
        """Say whether the parameter at `path` belongs to this group."""
        excluded = self.exclude and re.fullmatch(self.exclude, path)
        return bool(re.fullmatch(self.pattern, path)) and not excluded


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its schedule, and its groups, of which some may have another rule.

    `clip` bounds the global L2 norm of the trainable parameters' gradient (None: no
    bound); parameters whose path matches `no_decay` in full have no weight decay.
    """

    learning_rate: Amount
    warmup: Natural = 0
    schedule: schedules.Shape = "cosine"
    end_scale: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: Positive = 1e-8
    weight_decay: Amount = 0.0
    no_decay: str = ""
    clip: Positive | None = 1.0
    groups: Annotated[Mapping[str, Group], NONE_IS_DEFAULT] = dataclasses.field(
        default_factory=lambda: {"all": Group(".*")}
    )

    @property
    def needs_axes(self) -> bool:
        """Whether a group's rule depends on what the axes of its parameters are."""
        return any(group.rule == "muon" for group in self.groups.values())

    def __post_init__(self) -> None:
        _check(
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
        )
        # A negative bound or eps would turn the steps uphill.
        for name in ("clip", "eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must exceed 0, not {value}.")
        _check_expression("no_decay", self.no_decay)
        below_one(self, "b1", "b2")
        if not 0 <= self.end_scale <= 1:
            raise ValueError(f"end_scale must be in [0, 1], not {self.end_scale}.")
        if self.schedule == "constant" and self.end_scale:
            raise ValueError(
                f"end_scale is {self.end_scale}, but the schedule is 'constant', which "
                "ends as it began; leave it out, or choose another schedule."
            )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation over the flat dictionary of trainable parameters.

    The transformation is for a learning rate of 1; `update` multiplies by
    `schedule(step)`, so that skipped steps do not shift the schedule.
    `groups` maps the path of each trainable parameter to the name of its group.
    """

    transform: optax.GradientTransformation
    schedule: schedules.Schedule
    groups: Mapping[str, str]

    def init(self, params: Mapping[str, PyTree]) -> optax.OptState:
        """Return what the optimizer keeps for nested `params` between steps."""
        return self.transform.init(self.split(params)[0])

    def update(
        self, gradients: Flat, kept: optax.OptState, trainable: Flat, step: jax.Array
    ) -> tuple[Flat, optax.OptState]:
        """Return the trainable parameters after `step`, and what is kept."""
        with jax.numpy_dtype_promotion("standard"):  # optax is written for it
            updates, kept = self.transform.update(gradients, kept, trainable)
        rate = self.schedule(step)

        def move(parameter: jax.Array, update: jax.Array) -> jax.Array:
            return parameter + (rate * update).astype(parameter.dtype)

        return jax.tree.map(move, trainable, updates), kept

    def split(self, params: Mapping[str, PyTree]) -> tuple[Flat, Flat]:
        """Flatten nested params to (trainable, frozen), keyed by path."""
        flat = flatten(params)
        trainable = {path: x for path, x in flat.items() if path in self.groups}
        frozen = {path: x for path, x in flat.items() if path not in self.groups}
        return trainable, frozen

    def norms(self, gradients: Flat) -> dict[str, jax.Array]:
        """Return the L2 norm of the gradient: in all and, if several, by group."""
        squares: dict[str, jax.Array] = {}
        for path, gradient in gradients.items():
            square = jnp.sum(jnp.square(gradient.astype(jnp.float32)))
            group = self.groups[path]
            squares[group] = squares[group] + square if group in squares else square
        norms = {"grad_norm": jnp.sqrt(sum(squares.values(), jnp.float32(0)))}
        if len(squares) > 1:
            norms |= {f"grad_norm/{g}": jnp.sqrt(x) for g, x in squares.items()}
        return norms


def assign(groups: Mapping[str, Group], paths: Iterable[str], config_path: str) -> dict:
    """Return the name of the group of every parameter path.

    Raises:
        ConfigError: a parameter without a group or with two, or a group without
            parameters; `config_path` is the dotted path of the groups in the config.
    """
    names: dict[str, str] = {}
    unmatched = []
    for path in paths:
        found = [name for name, group in groups.items() if group.matches(path)]
        if len(found) > 1:
            raise ConfigError(
                f"{config_path}: parameter {path!r} belongs to {' and '.join(found)}; "
                "narrow one of them with `exclude`."
            )
        if found:
            names[path] = found[0]
        else:
            unmatched.append(path)
    if unmatched:
        raise ConfigError(
            f"{config_path}: {len(unmatched)} parameters match no group, "
            f"such as {', '.join(map(repr, unmatched[:3]))}; add a pattern for them."
        )
    idle = [name for name in groups if name not in names.values()]
    if idle:
        raise ConfigError(
            f"{config_path}.{idle[0]}: pattern {groups[idle[0]].pattern!r} matches no "
            f"parameter; paths look like {', '.join(map(repr, list(names)[:3]))}."
        )
    return names


def make_optimizer(
    config: OptimizerConfig,
    paths: Iterable[str],
    steps: int,
    config_path: str = "optimizer",
    axes: Axes | None = None,
) -> Optimizer:
    """Build the optimizer of the parameters at `paths` over a run of `steps` steps.

    Args:
        config: which rule, rate and decay each parameter has.
        paths: of all parameters.
        steps: of the run.
        config_path: dotted path of `config`, for messages.
        axes: logical names of the axes; without them no group can have the rule "muon".

    Raises:
        ConfigError: groups that do not cover the parameters (see `assign`), nothing
            left to train, a parameter that is no matrix in a group of "muon", or a
            schedule that does not fit.
    """
    names = assign(config.groups, paths, f"{config_path}.groups")
    groups = {p: name for p, name in names.items() if not config.groups[name].frozen}
    if not groups:
        raise ConfigError(
            f"{config_path}.groups: every group is frozen, nothing would train."
        )
    undecayed = {p for p in groups if re.fullmatch(config.no_decay, p)}
    if config.no_decay and not undecayed:
        raise ConfigError(
            f"{config_path}.no_decay: {config.no_decay!r} matches no trainable "
            "parameter."
        )
    scales = {path: config.groups[name].lr_scale for path, name in groups.items()}
    decays = {}
    for path, name in groups.items():
        own = config.groups[name].weight_decay
        decays[path] = config.weight_decay if own is None else own
    decays |= dict.fromkeys(undecayed, 0.0)
    transform = optax.chain(
        optax.identity()
        if config.clip is None
        else optax.clip_by_global_norm(config.clip),
        _directions(config, groups, axes, f"{config_path}.groups"),
        _decay_and_scale(decays, scales),
    )
    try:
        schedule = schedules.make_schedule(
            config.learning_rate,
            config.warmup,
            steps,
            config.schedule,
            config.end_scale,
        )
    except ValueError as error:
        raise ConfigError(f"{config_path}.warmup: {error}") from error
    return Optimizer(transform, schedule, groups)


def matrix_axes(
    names: tuple[str | None, ...],
) -> contrib.MuonDimensionNumbers | None:
    """Say which axes of a kernel are read and which are given; None if it is no matrix.

    Args:
        names: logical names of its axes. Stacked layers are matrices of their own; a
            convolution reads its window and channels; a projection to heads gives both
            heads and their width.
    """
    own = [axis for axis, name in enumerate(names) if name != _STACKED]
    heads = [axis for axis in own if names[axis] in _HEADS]
    given = own[own.index(heads[0]) :] if heads else own[-1:]
    read = own[: len(own) - len(given)]
    if not read or "norm" in names:
        return None
    return contrib.MuonDimensionNumbers(tuple(read), tuple(given))


def _directions(
    config: OptimizerConfig,
    groups: Mapping[str, str],
    axes: Axes | None,
    config_path: str,
) -> optax.GradientTransformation:
    """Return what turns gradients into directions, by the rules of the groups."""
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    muon: dict[str, tuple[set[str], optax.GradientTransformation]] = {}
    for name, group in config.groups.items():
        if group.rule == "muon":
            paths = {path for path, own in groups.items() if own == name}
            muon[name] = (paths, _muon(group, paths, axes, f"{config_path}.{name}"))
    if not muon:
        return adam  # its state is that of checkpoints without any other rule
    matrices = set().union(*(paths for paths, _ in muon.values()))
    return _divided(
        {
            "adamw": (groups.keys() - matrices, adam),
            "muon": (matrices, _divided(muon)),
        }
    )


def _muon(
    group: Group, paths: Iterable[str], axes: Axes | None, config_path: str
) -> optax.GradientTransformation:
    """Return Muon for the matrices at `paths`; its updates are as large as AdamW's."""
    dimensions: dict[str, contrib.MuonDimensionNumbers] = {}
    for path in paths:
        found = matrix_axes(axes[path]) if axes else None
        if found is None or not path.endswith("kernel"):
            raise ConfigError(
                f"{config_path}: {path!r} is no kernel of a layer, which the rule "
                "'muon' is for; narrow the pattern, such as to '.*/kernel'."
            )
        dimensions[path] = found

    def scale(updates: Any, params: object) -> Any:
        del params
        return {
            path: update * _muon_scale(update.shape, dimensions[path])
            for path, update in updates.items()
        }

    return optax.chain(
        contrib.scale_by_muon(
            beta=0.95 if group.momentum is None else group.momentum,
            weight_dimension_numbers=dimensions,
        ),
        optax.stateless(scale),
    )


def _muon_scale(shape: tuple[int, ...], axes: contrib.MuonDimensionNumbers) -> float:
    """Return what gives an orthogonal matrix the root mean square `_MUON_RMS`.

    A matrix of n x m with singular values of one has a mean square of 1 / max(n, m).
    """
    sides = (axes.reduction_axis, axes.output_axis)
    largest = max(math.prod(shape[i] for i in np.atleast_1d(side)) for side in sides)
    return _MUON_RMS * math.sqrt(largest)


def _divided(
    rules: Mapping[str, tuple[set[str], optax.GradientTransformation]],
) -> optax.GradientTransformation:
    """Apply to each set of paths its own rule; the state is a dict by rule."""

    def part(tree: Mapping[str, Any], paths: set[str]) -> dict[str, Any]:
        return {path: leaf for path, leaf in tree.items() if path in paths}

    def init(params: Any) -> Any:
        return {
            name: rule.init(part(params, paths))
            for name, (paths, rule) in rules.items()
        }

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        found, kept = {}, {}
        for name, (paths, rule) in rules.items():
            own = None if params is None else part(params, paths)
            some: Any
            some, kept[name] = rule.update(part(updates, paths), state[name], own)
            found |= some
        return {path: found[path] for path in updates}, kept

    return optax.GradientTransformation(init, update)


def _check_expression(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{name} {shown(pattern)} is no expression: {error}."
        ) from error


def _check(**values: float) -> None:
    """Refuse, by name, what is negative or not finite."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, not {value}.")


def _decay_and_scale(
    decays: Mapping[str, float], scales: Mapping[str, float]
) -> optax.GradientTransformation:
    """Turn directions into updates: -scale · (direction + decay · parameter).

    One stateless function in place of `optax.partition`, whose state would carry the
    groups' names into checkpoints.
    """

    def apply(updates: PyTree, params: PyTree) -> PyTree:
        return {
            path: -scales[path] * (direction + decays[path] * params[path])
            for path, direction in updates.items()
        }

    return optax.stateless(apply)
