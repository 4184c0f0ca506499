"""What UniTok's tokenizer is trained for (arXiv 2502.20321, section 3.2).

l1·L1 + l2·L2 + perceptual·LPIPS + quantization·VQ + contrastive·CLIP; an adversarial
term comes from the trainer. The loss stands in two halves, as that term needs them:
what the tokenizer makes of a batch, and how far a picture is from the original.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from unitoken_jax.config import Amount, ConfigError, below_one, positive
from unitoken_jax.models.system import (
    Batch,
    FrozenModels,
    GeneratorOutput,
    Metrics,
    Params,
)
from unitoken_jax.ops import pixels, quantization
from unitoken_jax.ops.chunks import chunked_map, split
from unitoken_jax.ops.contrastive import contrastive_loss
from unitoken_jax.ops.fidelity import psnr

if TYPE_CHECKING:
    from unitoken_jax.models.unitok import UniTok

PERCEPTUAL = "perceptual"
"""Name of the frozen network that measures the perceptual distance."""
LARGEST_LOGIT_SCALE = 4.605170185988092
"""ln 100; the logarithmic logit scale is clipped to [0, this] after every step."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms; the defaults are the published ones.

    Attributes:
        supervision: which losses the tokenizer learns from; the quantizer's is always
            among them.
        l1: weight of the mean absolute difference.
        l2: weight of the mean squared difference.
        perceptual: weight of LPIPS; 0 needs no such network.
        quantization: weight of the codebook and commitment term.
        contrastive: weight of the image-text term.
        revival: weight of a term that pulls codes that no latent chose to the nearest
            latent; not published, for short trainings.
        decode_every: one in so many pictures is decoded and compared; every picture
            has the other terms.
        perceptual_every: one in so many of these has the perceptual term.
        perceptual_chunks: they pass the perceptual network in so many chunks, each
            computed again for the gradient.
        contrastive_chunk: texts compared with all pictures at once.
        usage_decay: of the moving histogram of codes, by step.
    """

    supervision: Literal["both", "reconstruction", "contrastive"] = "both"
    l1: Amount = 0.2
    l2: Amount = 1.0
    perceptual: Amount = 1.0
    quantization: Amount = 1.0
    contrastive: Amount = 1.0
    revival: Amount = 0.0
    decode_every: int = 1
    perceptual_every: int = 1
    perceptual_chunks: int = 1
    contrastive_chunk: int = 1024
    usage_decay: float = 0.99

    def __post_init__(self) -> None:
        counts = ("decode_every", "perceptual_every", "perceptual_chunks")
        positive(self, *counts, "contrastive_chunk")
        below_one(self, "usage_decay")

    @property
    def unread(self) -> dict[str, str]:
        """Fields that are set, to no default and not to 0, without effect → why."""
        alone = f"supervision is {self.supervision!r}, which"
        idle: dict[str, str] = {}
        if not self.reconstructs:
            names = ("l1", "l2", "perceptual", "decode_every", "perceptual_every")
            idle |= dict.fromkeys(names, f"{alone} decodes no images")
        elif not self.perceptual:
            idle["perceptual_every"] = "the weight perceptual is 0"
        if not self.contrasts:
            idle["contrastive"] = f"{alone} reads no texts"
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {
            name: why
            for name, why in idle.items()
            if getattr(self, name) not in (0, defaults[name])
        }

    @property
    def reconstructs(self) -> bool:
        """Whether pictures are decoded and compared."""
        return self.supervision != "contrastive"

    @property
    def contrasts(self) -> bool:
        """Whether pictures and texts are compared."""
        return self.supervision != "reconstruction"

    @property
    def whole_batch(self) -> bool:
        """Whether a term compares elements of a batch with each other."""
        # The revival looks for codes that nothing in the batch chose.
        return self.contrasts or self.revival > 0

    @property
    def frozen_models(self) -> tuple[str, ...]:
        """Names of the frozen networks it needs."""
        return (PERCEPTUAL,) if self.reconstructs and self.perceptual else ()


def forward(
    model: "UniTok", params: Params, batch: Batch, rng: jax.Array
) -> GeneratorOutput:
    """Code and decode a batch of pairs.

    Args:
        model: the tokenizer.
        params: its parameters.
        batch: `image` uint8 [B, H, W, 3] and, unless supervision is "reconstruction",
            `text` int32 [B, X].
        rng: key of the dropped paths.
    """
    config = model.config.objective
    images = pixels.normalize(batch["image"])
    apply = partial(model.apply, {"params": params})
    output: Any = apply(
        images,
        batch["text"] if config.contrasts else None,
        deterministic=False,
        decode_every=config.decode_every if config.reconstructs else 0,
        rngs={"dropout": rng},
    )
    counts = quantization.count_codes(output["codes"], model.config.codes)
    metrics = {
        "quantization": output["vq_loss"],
        "histogram": counts / counts.sum(-1, keepdims=True),
    }
    rest = config.quantization * output["vq_loss"]
    if config.contrasts:
        contrast, accuracy = contrastive_loss(
            output["image_features"],
            output["text_features"],
            output["logit_scale"],
            chunk=config.contrastive_chunk,
        )
        rest += config.contrastive * contrast
        metrics |= {
            "contrastive": contrast,
            "accuracy": accuracy,
            "logit_scale": output["logit_scale"],
        }
    if config.revival:
        revival: Any = apply(output["latent"], counts, method="revival_loss")
        rest += config.revival * revival
        metrics["revival"] = revival
    if not config.reconstructs:
        nothing = jnp.zeros((0, *images.shape[1:]), jnp.float32)
        return GeneratorOutput(nothing, nothing, nothing, rest, metrics)
    return GeneratorOutput(
        output["reconstruction"],
        every(images, config.decode_every),
        output["last_layer_input"],
        rest,
        metrics,
    )


def reconstruction_loss(
    config: ObjectiveConfig,
    made: jax.Array,
    real: jax.Array,
    frozen_models: FrozenModels,
) -> tuple[jax.Array, Metrics]:
    """Return the weighted distance of pictures and their originals, and its terms."""
    difference = made - real
    l1, l2 = jnp.mean(jnp.abs(difference)), jnp.mean(jnp.square(difference))
    metrics = {
        "l1": l1,
        "l2": l2,
        "psnr": jnp.mean(psnr(real, jnp.clip(made, -1, 1))),
    }
    total = config.l1 * l1 + config.l2 * l2
    if config.perceptual:
        step = config.perceptual_every
        seen = every(real, step), every(made, step)
        network = frozen_models[PERCEPTUAL]
        distance = jnp.mean(chunked_map(network, config.perceptual_chunks, *seen))
        total += config.perceptual * distance
        metrics["perceptual"] = distance
    return total, metrics


def loss(
    model: "UniTok",
    params: Params,
    batch: Batch,
    rng: jax.Array,
    frozen_models: FrozenModels | None = None,
) -> tuple[jax.Array, Metrics]:
    """Everything but the adversarial term.

    Args:
        model: the tokenizer.
        params: its parameters.
        batch: see `forward`.
        rng: key of the dropped paths.
        frozen_models: `perceptual`, unless its weight is 0.

    Returns:
        The scalar to minimise, and metrics: the terms, psnr (dB), accuracy (share of
        pictures whose nearest text is their own) and `histogram` [C, V], which
        `post_update` takes.
    """
    config = model.config.objective
    result = forward(model, params, batch, rng)
    total, metrics = result.other_loss, result.metrics
    if config.reconstructs:
        distance, compared = reconstruction_loss(
            config, result.reconstruction, result.original, frozen_models or {}
        )
        total, metrics = total + distance, metrics | compared
    return total, {"loss": total} | metrics


def post_update(
    model: "UniTok", params: Params, metrics: Metrics
) -> tuple[Params, Metrics]:
    """What is set after a step: the logit scale's bounds and the codes' statistics.

    Returns:
        The parameters, and the metrics with `histogram` replaced by figures of its
        moving mean: by codebook k the share of codes in use `usage/k` (those with more
        than a hundredth of the even share, as published), `perplexity/k` and the
        number `dead/k` of the others; `usage` and `perplexity` are means over k.
    """
    metrics = dict(metrics)
    now = metrics.pop("histogram")
    before = params["quantizer"]["usage"]
    decay = jnp.where(jnp.any(before > 0), model.config.objective.usage_decay, 0.0)
    shares = decay * before + (1.0 - decay) * now  # [C, V]
    scale = jnp.clip(params["logit_scale"], 0.0, LARGEST_LOGIT_SCALE)
    params = params | {
        "quantizer": params["quantizer"] | {"usage": shares},
        "logit_scale": scale,
    }
    used = quantization.published_usage(shares) / 100
    dead = jnp.round((1 - used) * shares.shape[-1])
    perplexity = quantization.perplexity(shares)
    metrics |= {"usage": used.mean(), "perplexity": perplexity.mean()}
    for name, values in (("usage", used), ("perplexity", perplexity), ("dead", dead)):
        metrics |= {f"{name}/{k}": value for k, value in enumerate(values)}
    return params, metrics


def every(images: jax.Array, step: int) -> jax.Array:
    """Return one in `step` of [B, …], without moving rows between devices.

    Raises:
        ConfigError: the batch does not divide.
    """
    if images.shape[0] % step:
        raise ConfigError(
            f"one in {step} of a batch of {images.shape[0]} pictures: choose divisors "
            "of the batch for objective.decode_every and perceptual_every"
        )
    return split(images, step)[0]
