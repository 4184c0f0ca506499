"""UniTok's multimodal LLM (arXiv 2502.20321, section 3.4), in Liquid's framework.

Llama reads images as embeddings of UniTok's codes, and writes them through a depth head
behind the states in front of each image token; text has Llama's own vocabulary and
head. Mirrors the published training code.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Amount, Count, positive
from unitoken_jax.layers.codebooks import Codebooks
from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.layers.mlp import MLP
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.projection import AttentionProjection
from unitoken_jax.models.decoder import (
    LLAMA_2_7B,
    Decoder,
    DecoderConfig,
    uncounted_flops,
)
from unitoken_jax.models.depth_head import (
    PARAMETERS_BEFORE_DEPTH_ATTENTION,
    DepthHead,
)
from unitoken_jax.models.system import (
    DataNeeds,
    Learns,
    Shapes,
    System,
    half_of_attention,
)
from unitoken_jax.ops import losses
from unitoken_jax.ops.code_scores import CodeScores, CodeSums, sum_codes
from unitoken_jax.ops.quantization import Quantizer

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class UniTokMllmConfig:
    """Shape and objective; the defaults are the published 7B model.

    Attributes:
        decoder: the language model.
        codebooks: codes of an image token K.
        codes: entries of a codebook.
        code_width: channels of a code.
        projection: width of the causal attention projection over an image's codes.
        projection_heads: its heads.
        depth_layers: blocks of the depth head, which have the decoder's shape.
        z_loss: weight of the mean squared largest logit of the codes. Only the released
            code has this term.
        loss_chunk: ids whose text logits are held at once, for every position.
        code_chunk: image tokens of every row whose code logits are held at once.
    """

    decoder: DecoderConfig = LLAMA_2_7B
    codebooks: int = 8
    codes: int = 4096
    code_width: int = 8
    projection: int = 1024
    projection_heads: Count = 16
    depth_layers: int = 3
    z_loss: Amount = 5e-5
    loss_chunk: int = 4096
    code_chunk: int = 32

    def __post_init__(self) -> None:
        """Refuses what has no size, and a loss in no parts."""
        positive(self, "codebooks", "codes", "code_width", "projection")
        positive(self, "depth_layers", "loss_chunk", "code_chunk")


class CodeEmbedder(nn.Module):
    """Codes to the decoder's width; `quantizer`, `projection`, `norm` and `mlp`.

    The vectors of a token's codes are concatenated. The projection sees earlier tokens
    of the same image, so that all of them must be shown to it, or kept.
    """

    config: UniTokMllmConfig

    def setup(self) -> None:
        """Names the parts."""
        config = self.config
        decoder = config.decoder
        self.quantizer = Codebooks(
            config.codebooks,
            config.codes,
            config.code_width,
            Quantizer(normalize=True),
        )
        self.projection = AttentionProjection(
            config.projection,
            config.projection_heads,
            causal=True,
            dtype=decoder.dtype,
        )
        self.norm = LayerNorm(1e-6)
        self.mlp = MLP(
            decoder.hidden,
            "gelu_erf",
            output=decoder.hidden,
            kernel_init=initializers.normal(decoder.init_scale),
            dtype=decoder.dtype,
        )

    def __call__(self, codes: jax.Array) -> jax.Array:
        """Embeds the images [M, S, K], to [M, S, D]."""
        x, _ = self.projection(self.quantizer.lookup(codes))
        return self.mlp(self.norm(x))

    @nn.nowrap
    def init_cache(self, batch: int, tokens: int) -> KVCache:
        """Return an empty cache for the tokens of one image in every row."""
        config = self.config
        heads = config.projection_heads
        # The projection works at the larger of its two widths.
        width = max(config.projection, config.codebooks * config.code_width)
        dtype = config.decoder.dtype
        return KVCache.empty(batch, tokens, (heads, width // heads), dtype)

    def decode(self, codes: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Embed the next token of every image, codes [B, 1, K], to [B, 1, D]."""
        valid = jnp.ones(codes.shape[:2], bool)
        x, new = self.projection(
            self.quantizer.lookup(codes), cache.entries, (valid, cache.valid)
        )
        return self.mlp(self.norm(x)), cache.append(new, valid)


class UniTokMllm(nn.Module):
    """The model; parameters `decoder`, `embedder` and `depth`."""

    config: UniTokMllmConfig

    def setup(self) -> None:
        """Names the parts."""
        config = self.config
        self.decoder = Decoder(config.decoder)
        self.embedder = CodeEmbedder(config)
        self.depth = self._depth_head()

    @nn.nowrap
    def _depth_head(self, **fields: Any) -> DepthHead:
        config = self.config
        return DepthHead(
            dataclasses.replace(config.decoder, layers=config.depth_layers),
            config.codebooks,
            config.codes,
            chunk=config.code_chunk,
            **fields,
        )

    def embed_images(self, codes: jax.Array) -> jax.Array:
        """Embeddings of the images of every row, one after the other.

        Args:
            codes: int32 [B, I, S, K].

        Returns:
            [B, I * S, D], which `feature_index` points into.
        """
        rows, images, *shape = codes.shape
        # [B, I, S, K] → [B · I, S, K] → [B · I, S, D]
        features = self.embedder(codes.reshape(rows * images, *shape))
        # [B · I, S, D] → [B, I · S, D]
        return features.reshape(rows, -1, features.shape[-1])

    def embed(
        self,
        tokens: jax.Array,
        feature_index: jax.Array | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:
        """Embeddings of a row, image tokens in their places.

        Args:
            tokens: int32 [B, T]; whatever it holds at image tokens is not used.
            feature_index: int32 [B, T], index into the row's image tokens or -1.
            features: [B, I * S, D]; None for text only.

        Returns:
            [B, T, D].
        """
        embeddings = self.decoder.embed(tokens)
        if feature_index is None or features is None:
            return embeddings
        index = jnp.maximum(feature_index, 0)[..., None]
        gathered = jnp.take_along_axis(features, index, axis=1)
        return jnp.where(
            (feature_index >= 0)[..., None],
            gathered.astype(embeddings.dtype),
            embeddings,
        )

    def __call__(self, batch: Batch, deterministic: bool = True) -> jax.Array:
        """Runs packed rows.

        Args:
            batch: `tokens`, `positions`, `segment_ids`, `feature_index` int32 [B, T]
                and `codes` int32 [B, I, S, K]; I may be 0.
            deterministic: False for dropout, which needs the rng `dropout`.

        Returns:
            Hidden states [B, T, D] after the final norm.
        """
        codes = batch["codes"]
        features = self.embed_images(codes) if codes.shape[1] else None
        embeddings = self.embed(batch["tokens"], batch["feature_index"], features)
        return self.decoder(
            embeddings, batch["positions"], batch["segment_ids"], deterministic
        )

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits of text, float32 [..., V] of hidden states [..., D]."""
        return self.decoder.logits(hidden)

    def score(self, hidden: jax.Array, targets: jax.Array) -> losses.TokenScores:
        """Score ids of text int32 [B, T], -1 without loss, by hidden [B, T, D]."""
        return self.decoder.score(hidden, targets, chunk=self.config.loss_chunk)

    def score_drawn(
        self, hidden: jax.Array, batch: Batch, deterministic: bool = True
    ) -> tuple[CodeScores, jax.Array]:
        """Scores the codes of the image tokens that are to be drawn.

        Args:
            hidden: [B, T, D], of `__call__`.
            batch: as there, and `image_target_positions` int32 [B, M]: places of a row
                whose next one is an image token with loss, or -1. M bounds the work of
                the depth head.
            deterministic: False for dropout.

        Returns:
            Their scores, and the codes int32 [B, M, K], -1 where there is no loss.
        """
        positions, codes = batch["image_target_positions"], batch["codes"]
        place = jnp.maximum(positions, 0)
        state = jnp.take_along_axis(hidden, place[..., None], axis=1)  # [B, M, D]
        index = jnp.take_along_axis(batch["feature_index"], place + 1, axis=1)
        flat = codes.reshape(codes.shape[0], -1, codes.shape[-1])  # [B, I * S, K]
        chosen = jnp.take_along_axis(flat, jnp.maximum(index, 0)[..., None], axis=1)
        features = self.depth(state, chosen, deterministic=deterministic)
        targets = jnp.where((positions >= 0)[..., None], chosen, -1)
        return self.depth.score(features, targets), targets

    def initialize(self) -> None:
        """Uses every parameter once: the method to give to `init`."""
        self.decoder.initialize()
        codes = jnp.zeros((1, 1, 1, self.config.codebooks), jnp.int32)
        states = self.embed_images(codes)
        self.depth.logits(self.depth(states, codes[:, 0]))

    @nn.nowrap
    def init_code_cache(self, batch: int, tokens: int) -> KVCache:
        """Return an empty cache for the tokens of one image in every row."""
        return CodeEmbedder(self.config, parent=None).init_cache(batch, tokens)

    def embed_drawn(
        self, codes: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        """Return embeddings [B, 1, D] of the tokens int32 [B, 1, K] just drawn."""
        return self.embedder.decode(codes, cache)

    @nn.nowrap
    def init_depth_cache(self, batch: int) -> KVCache:
        """Return an empty cache for the depths of one token of every row."""
        return self._depth_head(parent=None).init_cache(batch)

    def decode_depth(self, x: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Return logits of one code of every row, see `DepthHead.decode`."""
        return self.depth.decode(x, cache)

    def embed_depth(self, code: jax.Array, depth: jax.Array) -> jax.Array:
        """Return what follows a code in the depth head, see `DepthHead.embed`."""
        return self.depth.embed(code, depth)


def loss(
    model: UniTokMllm, params: dict, batch: Batch, rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of text and codes, a mean over all labels, plus the z-loss.

    Args:
        model: the network.
        params: its parameters.
        batch: see `UniTokMllm.__call__` and `score_drawn`, and `targets` int32 [B, T]:
            text labels of the next position, -1 without loss.
        rng: key of the dropout.

    Returns:
        The scalar to minimise, and the metrics: loss and its weight; text_ and image_
        loss, accuracy and weight; image_z, the mean squared largest logit. A weight is
        the number of labels that a mean is over, 0 where there are none; a code is one.
    """
    targets = batch["targets"]

    def run(model: UniTokMllm) -> tuple[jax.Array, CodeSums | None]:
        hidden = model(batch, deterministic=False)
        if not batch["codes"].shape[1] or not batch["image_target_positions"].shape[1]:
            return hidden, None
        scores, codes = model.score_drawn(hidden, batch, deterministic=False)
        return hidden, sum_codes(scores, codes)

    output: Any = model.apply({"params": params}, method=run, rngs={"dropout": rng})
    hidden, image = output
    scores: Any = model.apply({"params": params}, hidden, targets, method="score")
    text = losses.sum_scores(scores, targets >= 0)
    if image is None:
        image = CodeSums(*(jnp.zeros((), jnp.float32),) * 4)
    count = text.count + image.count
    total = text.cross_entropy + image.cross_entropy + model.config.z_loss * image.z
    total = losses.mean(total, count)
    return total, {
        "loss": total,
        "weight": count,
        "text_loss": losses.mean(text.cross_entropy, text.count),
        "text_accuracy": losses.mean(text.correct, text.count),
        "text_weight": text.count,
        "image_loss": losses.mean(image.cross_entropy, image.count),
        "image_z": losses.mean(image.z, image.count),
        "image_accuracy": image.accuracy,
        "image_weight": image.count,
    }


def system(config: UniTokMllmConfig) -> System:
    """Return what the rest of the program knows of UniTok's multimodal LLM."""

    def uncounted(batch: Shapes, learns: Learns) -> float:
        rows, pictures, length, depths = batch["codes"].shape
        places = batch["image_target_positions"].size
        decoder = config.decoder
        seen = learns("embedder/quantizer", "embedder/projection")
        upward = learns("decoder", "embedder")
        deep = upward or learns(*PARAMETERS_BEFORE_DEPTH_ATTENTION)
        width = max(config.projection, depths * config.code_width)
        heads = decoder.heads * decoder.head_dim
        return (
            uncounted_flops(decoder, batch, upward=upward)
            + half_of_attention(1, width, (rows * pictures, length), seen)
            + half_of_attention(config.depth_layers, heads, (places, depths), deep)
            + 2.0 * decoder.hidden * config.codes * places * depths
        )

    module = UniTokMllm(config)
    return System(
        config,
        module,
        partial(loss, module),
        lambda: {"method": "initialize"},
        DataNeeds(
            ("unitok_mllm",),
            vocabulary={"decoder.vocab_size": "size"},
            codes={"codebooks": "codebooks", "codes": "size"},
        ),
        sampler="unitoken_jax.generate.samplers.unitok_mllm:UniTokMllmSampler",
        uncounted_flops=uncounted,
        formats=("unitok-mllm",),
        evaluators=(
            "unitoken_jax.evaluate.understanding:Understanding",
            "unitoken_jax.evaluate.generation:Generation",
        ),
    )
