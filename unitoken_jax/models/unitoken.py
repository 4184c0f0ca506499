"""UniToken (arXiv 2504.04423): one decoder over discrete and continuous image tokens.

SigLIP features pass an adapter and are gathered into their places of a packed row; the
decoder reads them among the embeddings of text and image codes. Without an image tower
it is the discrete-only baseline.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Amount, positive
from unitoken_jax.layers.mlp import MLP
from unitoken_jax.models.decoder import (
    Decoder,
    DecoderConfig,
    uncounted_flops,
)
from unitoken_jax.models.siglip import SiglipVision, SiglipVisionConfig
from unitoken_jax.models.system import DataNeeds, Learns, Shapes, System
from unitoken_jax.ops import losses, pixels
from unitoken_jax.parallel.rules import constrain, num_shards

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class UniTokenConfig:
    """Shape and objective; the defaults are UniToken-7B.

    Attributes:
        decoder: the language model.
        vision: the image tower; None for discrete codes only.
        z_loss: weight of the mean squared logsumexp of the logits.
        first_image_code: id of the first image code.
        last_image_code: id of the last; image metrics count targets between the two.
        mask_image_logits: whether image codes get no probability, in the loss and in
            `logits`, as in understanding-only use of the published code.
        loss_chunk: ids whose logits are held at once, for every position.
    """

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    vision: SiglipVisionConfig | None = field(default_factory=SiglipVisionConfig)
    z_loss: Amount = 1e-5
    first_image_code: int = 4
    last_image_code: int = 8195
    mask_image_logits: bool = False
    loss_chunk: int = 4096

    def __post_init__(self) -> None:
        """Refuses image codes outside the vocabulary, and a loss in no parts."""
        positive(self, "loss_chunk")
        first, last = self.first_image_code, self.last_image_code
        if not 0 <= first <= last < self.decoder.vocab_size:
            raise ValueError(
                f"image codes {first}..{last} do not lie in the vocabulary of "
                f"{self.decoder.vocab_size} ids; set first_image_code and "
                "last_image_code to those of the tokenizer"
            )

    def is_image_code(self, ids: jax.Array) -> jax.Array:
        """Bool, True where an id is an image code."""
        return (ids >= self.first_image_code) & (ids <= self.last_image_code)

    def hidden_logits(self) -> jax.Array | None:
        """Bool [V], True where no logit is to be given; None where all are."""
        if not self.mask_image_logits:
            return None
        return self.is_image_code(jnp.arange(self.decoder.vocab_size))


class UniToken(nn.Module):
    """The model; parameters `decoder` and, with an image tower, `vision`, `adapter`."""

    config: UniTokenConfig

    def setup(self) -> None:
        """Names the parts."""
        config = self.config
        self.decoder = Decoder(config.decoder)
        if config.vision is not None:
            self.vision = SiglipVision(config.vision)
            self.adapter = MLP(
                config.decoder.hidden,
                "gelu_erf",
                output=config.decoder.hidden,
                kernel_init=initializers.normal(config.decoder.init_scale),
                rows="views",
                dtype=config.decoder.dtype,
            )

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Continuous features of images, in the decoder's width.

        Args:
            images: [M, H, W, 3], uint8 or float in [-1, 1].

        Returns:
            [M, S, D].
        """
        if images.dtype == jnp.uint8:
            images = pixels.normalize(images)
        return self.adapter(self.vision(images)["tokens"])

    def embed_images(self, views: jax.Array) -> jax.Array:
        """Return continuous features of the views of every row, one after the other.

        Args:
            views: [B, I, H, W, 3], uint8 or float in [-1, 1].

        Returns:
            [B, I * S, D], which `feature_index` points into.
        """
        rows, images, *size = views.shape
        # As many as the devices that share a row can share equally, blank ones added.
        shards = jax.sharding.get_abstract_mesh().shape.get("sequence", 1)
        shards //= math.gcd(rows // num_shards("batch", rows), shards)
        extra = [(0, 0), (0, -images % shards), *((0, 0) for _ in size)]
        padded = jnp.pad(views, extra)
        # [B, I, H, W, 3] → [B · I, H, W, 3] → [B · I, S, D]
        features = self.encode_image(padded.reshape(-1, *size))
        _, tokens, width = features.shape
        # [B · I, S, D] → [B, I · S, D]
        features = features.reshape(rows, -1, width)[:, : images * tokens]
        return constrain(features, "batch", None, "width")

    def embed(
        self,
        tokens: jax.Array,
        feature_index: jax.Array | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:
        """Embeddings of a row, continuous features in their places.

        Args:
            tokens: int32 [B, T]; whatever it holds at continuous places is not used.
            feature_index: int32 [B, T], index into the row's features or -1.
            features: [B, I * S, D]; None for tokens only.

        Returns:
            [B, T, D].
        """
        embeddings = self.decoder.embed(tokens)
        if feature_index is None or features is None:
            return embeddings
        index = jnp.maximum(feature_index, 0)[..., None]
        gathered = jnp.take_along_axis(features, index, axis=1)
        continuous = (feature_index >= 0)[..., None]
        return jnp.where(continuous, gathered.astype(embeddings.dtype), embeddings)

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        """Runs packed rows.

        Args:
            batch: `tokens`, `positions`, `segment_ids` [B, T] and, for continuous
                features, `feature_index` [B, T] and `pixels` [B, I, H, W, 3].
            deterministic: False for dropout, which needs the rng `dropout`.

        Returns:
            Hidden states [B, T, D] after the final norm.
        """
        pictures = batch.get("pixels")
        features = None
        if self.config.vision is not None and pictures is not None:
            features = self.embed_images(pictures) if pictures.shape[1] else None
        embeddings = self.embed(batch["tokens"], batch.get("feature_index"), features)
        return self.decoder(
            embeddings, batch["positions"], batch["segment_ids"], deterministic
        )

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits float32 [..., V] of hidden states [..., D]."""
        logits = self.decoder.logits(hidden)
        excluded = self.config.hidden_logits()
        if excluded is None:
            return logits
        return jnp.where(excluded, jnp.finfo(jnp.float32).min, logits)

    def initialize(self) -> None:
        """Uses every parameter once: the method to give to `init`."""
        self.decoder.initialize()
        if self.config.vision is not None:
            size = self.config.vision.image
            self.encode_image(jnp.zeros((1, size, size, 3)))

    def score(self, hidden: jax.Array, targets: jax.Array) -> losses.TokenScores:
        """Score ids int32 [B, T], -1 without loss, by hidden states [B, T, D]."""
        config = self.config
        return self.decoder.score(
            hidden,
            targets,
            chunk=config.loss_chunk,
            excluded=config.hidden_logits(),
        )


def loss(
    model: UniToken, params: dict, batch: Batch, rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Next-token cross-entropy plus z-loss, means over the positions with a target.

    Args:
        model: the network.
        params: its parameters.
        batch: see `UniToken.__call__`, and `targets` int32 [B, T], -1 without loss.
        rng: key of the dropout.

    Returns:
        The scalar to minimise, and the metrics: loss, cross_entropy, z_loss (not
        weighted), accuracy; text_ and image_ loss, accuracy and weight; weight. A
        weight is the number of positions that a mean is over, 0 where there are none.
    """
    config = model.config
    hidden: Any = model.apply(
        {"params": params}, batch, deterministic=False, rngs={"dropout": rng}
    )
    targets = batch["targets"]
    scores: Any = model.apply({"params": params}, hidden, targets, method="score")
    image = config.is_image_code(targets)
    text = (targets >= 0) & ~image
    parts = {
        "text": losses.sum_scores(scores, text),
        "image": losses.sum_scores(scores, image),
    }
    whole = jax.tree.map(jnp.add, parts["text"], parts["image"])
    cross_entropy = losses.mean(whole.cross_entropy, whole.count)
    z_loss = losses.mean(whole.z, whole.count)
    total = cross_entropy + config.z_loss * z_loss
    metrics = {
        "loss": total,
        "cross_entropy": cross_entropy,
        "z_loss": z_loss,
        "accuracy": losses.mean(whole.correct, whole.count),
        "weight": whole.count,
    }
    for name, sums in parts.items():
        metrics[f"{name}_loss"] = losses.mean(sums.cross_entropy, sums.count)
        metrics[f"{name}_accuracy"] = losses.mean(sums.correct, sums.count)
        metrics[f"{name}_weight"] = sums.count
    return total, metrics


def system(config: UniTokenConfig) -> System:
    """Return what the rest of the program knows of a UniToken."""

    def uncounted(batch: Shapes, learns: Learns) -> float:
        upward = config.vision is not None or learns("decoder")
        return uncounted_flops(config.decoder, batch, upward=upward)

    module = UniToken(config)
    return System(
        config,
        module,
        partial(loss, module),
        lambda: {"method": "initialize"},
        DataNeeds(
            ("sequences",),
            vocabulary={
                "decoder.vocab_size": "size",
                "first_image_code": "first_code",
                "last_image_code": "last_code",
            },
            tower="vision",
            undrawable="mask_image_logits",
        ),
        sampler="unitoken_jax.generate.samplers.unitoken:UniTokenSampler",
        uncounted_flops=uncounted,
        formats=("unitoken",),
        evaluators=(
            "unitoken_jax.evaluate.understanding:Understanding",
            "unitoken_jax.evaluate.generation:Generation",
            "unitoken_jax.evaluate.features:Features",
            "unitoken_jax.evaluate.memorization:Memorization",
        ),
    )
