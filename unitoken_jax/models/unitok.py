"""UniTok (arXiv 2502.20321): one tokenizer for drawing and for understanding.

A ViTamin encoder, a projection to narrow latents, several codebooks side by side, a
projection back, and on it both a decoder to pixels and a contrastive image feature
beside CLIP's text tower. Images are float [B, H, W, 3] in [-1, 1], codes int32
[B, L, K] for L tokens (row-major) and K codebooks.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Amount, Count, Natural
from unitoken_jax.layers.codebooks import Codebooks
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import parameter, vit_init
from unitoken_jax.layers.projection import AttentionProjection
from unitoken_jax.models.clip_text import ClipText, ClipTextConfig
from unitoken_jax.models.image_tokenizer import ImageTokenizer
from unitoken_jax.models.system import (
    Batch,
    DataNeeds,
    FrozenModels,
    GeneratorLoss,
    GeneratorOutput,
    Learns,
    Metrics,
    Params,
    Shapes,
    System,
    half_of_attention,
)
from unitoken_jax.models.unitok_objective import PERCEPTUAL, ObjectiveConfig, every
from unitoken_jax.models.vitamin import (
    ViTaminConfig,
    ViTaminDecoder,
    ViTaminEncoder,
)
from unitoken_jax.ops import pixels, quantization
from unitoken_jax.ops.chunks import chunked_map
from unitoken_jax.ops.contrastive import contrastive_loss
from unitoken_jax.ops.fidelity import psnr
from unitoken_jax.ops.normalization import l2_normalize
from unitoken_jax.ops.quantization import Quantizer

LARGEST_LOGIT_SCALE = 4.605170185988092
"""ln 100; the logarithmic logit scale is clipped to [0, this] after every step."""


@dataclass(frozen=True)
class UniTokConfig:
    """Shape of the tokenizer; the defaults are the published ViTamin-L one.

    Attributes:
        vision: encoder and decoder.
        text: text tower.
        vocab_size: codes of all codebooks together.
        vocab_width: channels of the latents that are quantized.
        num_codebooks: K; each has vocab_size / K codes.
        structure: "split" gives each codebook its vocab_width / K channels, "residual"
            (an ablation) gives each all channels of what the earlier ones left.
        normalize: compare vectors of length one (per codebook), as published.
        projection: how widths are bridged: by an attention block or a linear map.
        causal: whether the attention projections are causal, as those of the file of
            February 2025 were (same names and shapes, other codes).
        projection_heads: heads of the attention projections; None means
            vision.hidden / vocab_width, as published.
        beta: weight of the commitment term beside the codebook term.
        search_chunk: token positions whose distances to all codes are held at once; 0
            means all.
        objective: what it is trained for.
    """

    vision: ViTaminConfig = field(default_factory=ViTaminConfig)
    text: ClipTextConfig = field(default_factory=ClipTextConfig)
    vocab_size: Count = 32_768
    vocab_width: Count = 64
    num_codebooks: Count = 8
    structure: Literal["split", "residual"] = "split"
    normalize: bool = True
    projection: Literal["attention", "linear"] = "attention"
    causal: bool = False
    projection_heads: Count | None = None
    beta: Amount = 0.25
    search_chunk: Natural = 16
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        """Refuses codebooks that do not come out even."""
        for name, value in (
            ("vocab_size", self.vocab_size),
            ("vocab_width", self.vocab_width),
        ):
            if value % self.num_codebooks:
                raise ValueError(
                    f"{name}={value} is not a multiple of num_codebooks="
                    f"{self.num_codebooks}"
                )

    @property
    def codes(self) -> int:
        """Codes in each codebook."""
        return self.vocab_size // self.num_codebooks

    @property
    def quantizer(self) -> Quantizer:
        """How latents become codes."""
        return Quantizer(
            self.structure, self.normalize, self.beta, chunk=self.search_chunk
        )


class UniTok(ImageTokenizer):
    """The tokenizer.

    Parameters `encoder`, `narrow`, `quantizer`, `widen`, `decoder`, `text`,
    `image_norm`, `image_projection` and `logit_scale`.
    """

    config: UniTokConfig

    def setup(self) -> None:
        """Names the parts; the logit scale starts at ln(1 / 0.07)."""
        config = self.config
        self.encoder = ViTaminEncoder(config.vision)
        self.narrow = self._projection(config.vocab_width)
        split = config.structure == "split"
        self.quantizer = Codebooks(
            config.num_codebooks,
            config.codes,
            config.vocab_width // config.num_codebooks if split else config.vocab_width,
            config.quantizer,
        )
        self.widen = self._projection(config.vision.hidden)
        self.decoder = ViTaminDecoder(config.vision)
        self.text = ClipText(config.text)
        self.image_norm = LayerNorm(1e-6)
        self.image_projection = Linear(
            (config.text.embed,), ("embed", None), use_bias=True
        )
        start = initializers.constant(math.log(1 / 0.07))
        self.logit_scale = parameter(self, "logit_scale", start, (), ())

    def _projection(self, features: int) -> nn.Module:
        config = self.config
        if config.projection == "linear":
            axes = ("embed", None)
            return Linear((features,), axes, use_bias=True, kernel_init=vit_init)
        heads = config.projection_heads or config.vision.hidden // config.vocab_width
        return AttentionProjection(features, heads, config.causal)

    def latent(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Latents before quantization, float32 [B, L, vocab_width]."""
        tokens = self.encoder(images, deterministic=deterministic)
        return _first(self.narrow(tokens))

    def encode(self, images: jax.Array) -> jax.Array:
        """Codes int32 [B, L, K] of images [B, H, W, 3], sides multiples of 16."""
        return self.quantizer.codes(self.latent(images))

    def decode(
        self, codes: jax.Array, grid: tuple[int, int] | None = None
    ) -> jax.Array:
        """Images of codes.

        Args:
            codes: int32 [B, L, K].
            grid: rows and columns of tokens; a square when None.

        Returns:
            [B, f · rows, f · columns, 3] for vision.factor f, clipped to [-1, 1].
        """
        tokens = _first(self.widen(self.quantizer.lookup(codes)))
        grid = grid or _square(codes.shape[1])
        images, _ = self.decoder(tokens, grid)
        return jnp.clip(images, -1.0, 1.0)

    @property
    def num_codebooks(self) -> int:
        """Codebooks K."""
        return self.config.num_codebooks

    @property
    def codebook_size(self) -> int:
        """Codes in each codebook."""
        return self.config.codes

    def encode_grid(self, images: jax.Array) -> jax.Array:
        """Code images [B, H, W, 3] to [B, h, w, K]."""
        rows, columns = (
            side // self.config.vision.factor for side in images.shape[1:3]
        )
        codes = self.encode(images)
        # [B, L, K] → [B, h, w, K]
        return codes.reshape(len(images), rows, columns, -1)

    def decode_grid(self, codes: jax.Array) -> jax.Array:
        """Decode codes [B, h, w, K] to images [B, H, W, 3]."""
        batch, rows, columns, codebooks = codes.shape
        flat = codes.reshape(batch, rows * columns, codebooks)  # [B, h · w, K]
        return self.decode(flat, (rows, columns))

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Unit vectors float32 [B, E] of images, through their codes."""
        return self.encode_codes(self.encode(images))

    def encode_codes(self, codes: jax.Array) -> jax.Array:
        """Unit vectors float32 [B, E] of the images that codes [B, L, K] describe."""
        return self._image_feature(_first(self.widen(self.quantizer.lookup(codes))))

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Unit vectors float32 [B, E] of texts, int32 [B, X]."""
        return l2_normalize(self.text(text))

    def _image_feature(self, tokens: jax.Array) -> jax.Array:
        mean = tokens.mean(1)
        return l2_normalize(self.image_projection(self.image_norm(mean)))

    def __call__(
        self,
        images: jax.Array,
        text: jax.Array | None,
        deterministic: bool = True,
        decode_every: int = 1,
    ) -> dict[str, jax.Array]:
        """Everything that the training objective reads, of pairs.

        Args:
            images: [B, H, W, 3].
            text: int32 [B, X]; None leaves the features out.
            deterministic: False drops residual paths at random (rng "dropout").
            decode_every: one in so many pictures is decoded; 0 is none.

        Returns:
            reconstruction [B / decode_every, H, W, 3] (not clipped) and what its last
            layer sees, last_layer_input, of C channels; codes int32 [B, L, K], vq_loss
            (scalar), image_features and text_features [B, E] of length one, logit_scale
            (scalar, the factor itself); and on the way latent,
            quantized [B, L, vocab_width], tokens [B, L, D].
        """
        height, width = (
            side // self.config.vision.factor for side in images.shape[1:3]
        )
        latent = self.latent(images, deterministic=deterministic)
        quantized = self.quantizer(latent)
        tokens = _first(self.widen(quantized.vectors))
        output = {
            "codes": quantized.codes,
            "vq_loss": quantized.loss,
            "latent": latent,
            "quantized": quantized.vectors,
            "tokens": tokens,
        }
        if text is not None:
            output |= {
                "image_features": self._image_feature(tokens),
                "text_features": self.encode_text(text),
                "logit_scale": jnp.exp(self.logit_scale),
            }
        if decode_every:
            shown = every(tokens, decode_every)
            grid = (height, width)
            made, features = self.decoder(shown, grid, deterministic=deterministic)
            output |= {"reconstruction": made, "last_layer_input": features}
        return output

    def revival_loss(self, latent: jax.Array, counts: jax.Array) -> jax.Array:
        """Distance of codes that no latent chose, see `ops.quantization.Quantizer`.

        Args:
            latent: float32 [B, L, vocab_width].
            counts: float32 [K, V], how many of these latents chose each code.
        """
        books = self.quantizer.codebooks
        return self.config.quantizer.revival(latent, books, counts)


def _first(output: jax.Array | tuple) -> jax.Array:
    """A projection's tokens, without the keys and values of an attention."""
    return output[0] if isinstance(output, tuple) else output


def _square(length: int) -> tuple[int, int]:
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(
            f"{length} tokens are not a square image; give the grid (rows, columns)"
        )
    return side, side


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
        "latent_rank": quantization.effective_rank(output["latent"]),
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


# What a text tower adds.
_ALIGNED = (
    "unitoken_jax.evaluate.retrieval:Retrieval",
    "unitoken_jax.evaluate.zero_shot:ZeroShot",
)


def system(config: UniTokConfig) -> System:
    """Return what the rest of the program knows of a UniTok."""

    def inputs() -> dict[str, jax.Array]:
        size = 2 * config.vision.factor
        return {
            "images": jnp.zeros((1, size, size, 3)),
            "text": jnp.zeros((1, config.text.length), jnp.int32),
        }

    def uncounted(batch: Shapes, learns: Learns) -> float:
        images, *sides, _ = batch["image"].shape
        tokens = math.prod(side // config.vision.factor for side in sides)
        measured = quantization.effective_rank_flops(
            (images, tokens, config.vocab_width)
        )
        if not objective.contrasts:
            return measured
        text = config.text
        rows, length = batch["text"].shape
        half = half_of_attention(
            text.layers, text.hidden, (rows, length), learns("text")
        )
        return measured + half + 2.0 * text.embed * rows**2

    module, objective = UniTok(config), config.objective
    generator_loss = GeneratorLoss(
        forward=partial(forward, module),
        reconstruction_loss=partial(reconstruction_loss, objective),
        last_layer=f"decoder/{ViTaminDecoder.LAST_LAYER}",
        apply_last_layer=ViTaminDecoder(config.vision).apply_last_layer,
    )
    return System(
        config,
        module,
        partial(loss, module),
        inputs,
        DataNeeds(
            ("pairs",) if objective.contrasts else ("pairs", "images"),
            pixels_per_code=config.vision.factor,
            text_length="text.length" if objective.contrasts else None,
        ),
        frozen_models=objective.frozen_models,
        post_update=partial(post_update, module),
        generator_loss=generator_loss if objective.reconstructs else None,
        whole_batch=objective.whole_batch,
        image_tokenizer=module,
        uncounted_flops=uncounted,
        formats=("unitok",),
        evaluators=(
            "unitoken_jax.evaluate.reconstruction:Reconstruction",
            "unitoken_jax.evaluate.perception:Perception",
            *(_ALIGNED if objective.contrasts else ()),
        ),
        unread=_unread(config),
    )


def _unread(config: UniTokConfig) -> dict[str, str]:
    found = {f"objective.{k}": why for k, why in config.objective.unread.items()}
    if config.projection == "linear":
        for name in ("causal", "projection_heads"):
            if getattr(config, name):
                found[name] = "projection is 'linear', which attends to nothing"
    return found
