"""What the rest of the program knows of a trainable model.

A model module offers `system(config) -> System`. Training, sampling, evaluation,
planning and conversion ask a `System` for what they need and never for its kind. What
stands above models in the import order (a sampler, an evaluator, a published format) is
named by an entry point, "package.module:attribute", which `resolve` reads when it is
needed.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import jax
from flax import linen as nn

from unitoken_jax.models.image_tokenizer import ImageTokenizer

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[..., tuple[jax.Array, Metrics]]

Shapes = Mapping[str, jax.ShapeDtypeStruct]
"""Shapes of the arrays of a global batch, by name."""

Learns = Callable[..., bool]
"""(*paths) → whether any parameter learns whose path begins with one of them."""

EntryPoint = str
"""Name of an object in a module that is imported when it is needed: "module:name"."""


@dataclass(frozen=True)
class DataNeeds:
    """What the batches of a model must be; names are of fields of the model's config.

    Attributes:
        kinds: kinds of data whose arrays the loss reads.
        vocabulary: field → the attribute of the data set's vocabulary that it equals.
        codes: field → the attribute of the stream's code specification that it equals.
        pixels_per_code: an image's side is a multiple of this.
        patch: field with the side of a patch, of which one at least must fit; or None.
        text_length: field with the length of the longest text that is read; or None.
        tower: field with the config of the tower that reads continuous features
            (itself None if there is no tower); or None.
        undrawable: field that says whether image codes have no probability; or None.
    """

    kinds: tuple[str, ...]
    vocabulary: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)
    pixels_per_code: int = 1
    patch: str | None = None
    text_length: str | None = None
    tower: str | None = None
    undrawable: str | None = None


@partial(
    jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["module"]
)
@dataclass(frozen=True)
class FrozenModel:
    """A module with its parameters; a tree whose leaves are the parameters.

    It is an argument of a compiled step, so that its weights are no constants in the
    program, and no part of the training's state.
    """

    module: nn.Module
    params: Mapping[str, Any]

    def __call__(self, *inputs: object) -> Any:
        """Apply the module."""
        return self.module.apply({"params": self.params}, *inputs)


FrozenModels = Mapping[str, FrozenModel]
"""Frozen networks by the name a loss asks for."""


@dataclass(frozen=True)
class GeneratorLoss:
    """A loss in two parts, between which a discriminator can stand.

    Attributes:
        forward: (params, batch, rng) → what is generated.
        reconstruction_loss: (reconstruction, original, frozen models) → (loss,
            metrics).
        last_layer: path of the last layer's kernel, whose gradients balance both sides.
        apply_last_layer: (kernel, what that layer sees) → what is drawn, up to a bias.
    """

    forward: Callable[[Params, Batch, jax.Array], "GeneratorOutput"]
    reconstruction_loss: Callable[
        [jax.Array, jax.Array, FrozenModels], tuple[jax.Array, Metrics]
    ]
    last_layer: str
    apply_last_layer: Callable[[jax.Array, jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GeneratorOutput:
    """What a tokenizer makes of a batch.

    Attributes:
        reconstruction: reconstructions, not clipped, float32 [B', H, W, 3].
        original: their originals.
        last_layer_input: what the decoder's last layer sees, [B', H, W, C].
        other_loss: scalar, the weighted terms that do not look at pictures.
        metrics: the terms before their weights; `histogram` [C, V] holds the share of
            each code.
    """

    reconstruction: jax.Array
    original: jax.Array
    last_layer_input: jax.Array
    other_loss: jax.Array
    metrics: Metrics


@dataclass(frozen=True)
class System:
    """One trainable model.

    Attributes:
        config: its frozen config.
        module: the Linen module, for `module.apply({"params": params}, ...)`.
        loss: (params, batch, rng) → (loss, metrics), to be differentiated; a system
            with frozen models takes them as a fourth argument.
        inputs: () → what `module.init` is called with beside a key; needs no data.
        data: what its batches must be.
        kind: its name in configs; set by the registry.
        frozen_models: names of the frozen networks that its loss consults.
        post_update: (params, metrics) → (params, metrics), what is set after a step
            without a gradient, and the metrics of that; or None.
        generator_loss: the loss in the parts that a discriminator needs, if it makes
            images.
        whole_batch: whether the loss compares elements of a batch with each other, so
            that it is another one in microbatches.
        uncounted_flops: (shapes of a batch, which parameters learn) → FLOPs of the
            step's trace that are no work of the model: the other half of causal
            attention, and what a chunked loss computes twice.
        image_tokenizer: the module, if images become codes by it.
        sampler: what draws and answers with it, see `generate.samplers`; or None.
        evaluators: what can be measured of it, see `evaluate.evaluator`.
        formats: the published formats that hold the whole of it: names of
            `convert.formats.FORMATS`, or entry points of formats that it brings.
        unread: fields of the config that are set and that its other fields leave
            without effect → why, a clause.
    """

    config: Any
    module: nn.Module
    loss: Loss
    inputs: Callable[[], Mapping[str, Any]]
    data: DataNeeds
    kind: str = ""
    frozen_models: tuple[str, ...] = ()
    post_update: Callable[[Params, Metrics], tuple[Params, Metrics]] | None = None
    generator_loss: GeneratorLoss | None = None
    whole_batch: bool = False
    uncounted_flops: Callable[[Shapes, Learns], float] | None = None
    image_tokenizer: ImageTokenizer | None = None
    sampler: EntryPoint | None = None
    evaluators: tuple[EntryPoint, ...] = ()
    formats: tuple[EntryPoint, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return variables whose leaves are boxed with their axis names."""
        return self.module.init(rng, **self.inputs())

    def init_params(self, rng: jax.Array) -> Params:
        """Return parameters as a plain nested dict, float32; pure, to be jitted."""
        return unboxed(self.init(rng)["params"])

    def value(self, name: str) -> Any:
        """Return a field of the config by its dotted name."""
        return attrgetter(name)(self.config)


def call(
    module: nn.Module,
    params: Params,
    method: str | Callable[..., object],
    *inputs: object,
) -> Any:
    """Call a method of a module, or a function of a bound module, with parameters."""
    return module.apply({"params": params}, *inputs, method=method)


def resolve(name: EntryPoint) -> Any:
    """Return the object that an entry point names.

    Args:
        name: "package.module:attribute".

    Raises:
        ValueError, ImportError, AttributeError: there is none of that name.
    """
    return pkgutil.resolve_name(name)


def half_of_attention(
    layers: int, width: int, shape: tuple[int, int], upward: bool
) -> float:
    """Return FLOPs of half of the attention of rows, with their gradients if wanted.

    Args:
        layers: how many.
        width: of all heads together.
        shape: rows, and positions of a row.
        upward: whether gradients pass.
    """
    rows, length = shape
    products = 6 if upward else 2
    return float(products) * layers * width * length**2 * rows


def is_boxed(leaf: object) -> bool:
    """Say whether a leaf of variables carries the names of its axes."""
    return isinstance(leaf, nn.meta.AxisMetadata)


def unboxed(tree: object) -> Params:
    """Return variables without the names of their axes."""
    # Not nn.unbox: under a mesh that would constrain what it unboxes.
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.Partitioned) else leaf,
        tree,
        is_leaf=is_boxed,
    )
