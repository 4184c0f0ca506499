"""LlamaGen (arXiv 2406.06525) over UniTok's codes: images of a class.

A Llama with a rotary embedding by row and column behind one class token. A token of the
image is the sum of its codes' embeddings; a depth head gives its codes one by one.
Mirrors UniTok's fork of the published code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Amount, Count, Positive, Share, below_one, positive
from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.layers.norms import RMSNorm
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.layers.residual import Dropout
from unitoken_jax.layers.stack import Remat, scan_layers
from unitoken_jax.layers.vocabulary import Embedding
from unitoken_jax.models.decoder import (
    DECODING,
    Block,
    Context,
    DecoderConfig,
    Mode,
)
from unitoken_jax.models.depth_head import (
    PARAMETERS_BEFORE_DEPTH_ATTENTION,
    CodeEmbeddings,
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
from unitoken_jax.ops.attention import Backend
from unitoken_jax.ops.code_scores import CodeScores, sum_codes
from unitoken_jax.ops.rotary import Rotation, grid_rotation
from unitoken_jax.parallel.rules import constrain

Batch = Mapping[str, jax.Array]
Size = Literal["B", "L", "XL", "XXL", "XXXL"]

_SHAPES: dict[Size, tuple[int, int, int]] = {
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "XXXL": (48, 40, 2560),
}  # layers, heads, width


@dataclass(frozen=True)
class LlamaGenConfig:
    """Shape and training of the generator; the defaults are the published GPT-XXL.

    Attributes:
        hidden: width D.
        layers: blocks of the trunk.
        heads: heads N; the head width is D / N, a multiple of 4.
        intermediate: inner width of the MLPs; None for the published rule, 8/3 of the
            width rounded up to a multiple of `multiple_of`.
        multiple_of: see `intermediate`.
        classes: number of classes.
        null_class: whether one more row of the class table stands for no class, which
            guidance needs. Files trained without label dropout lack it.
        codebooks: codes of a token K.
        codes: entries of a codebook V.
        side: tokens along one side of the image.
        depth_layers: blocks of the depth head.
        rope_theta: base wavelength of the rotary embedding, in tokens.
        norm_eps: added to the mean square in the RMS norms.
        class_dropout: probability of training an image without its class.
        token_dropout: rate of the dropout of what enters the trunk.
        dropout: rate of the residual dropout, in trunk and depth head.
        init_scale: standard deviation of all matrices at initialisation.
        loss_chunk: tokens of every image whose logits are held at once.
        attention: backend of the trunk's attention, see `ops.attention`.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        dtype: type of the computation; parameters are float32.
    """

    hidden: int = 1536
    layers: int = 48
    heads: int = 24
    intermediate: Count | None = None
    multiple_of: int = 256
    classes: int = 1000
    null_class: bool = False
    codebooks: int = 8
    codes: int = 4096
    side: int = 16
    depth_layers: int = 4
    rope_theta: Positive = 10_000.0
    norm_eps: Positive = 1e-5
    class_dropout: Share = 0.0
    token_dropout: float = 0.1
    dropout: float = 0.1
    init_scale: Amount = 0.02
    loss_chunk: int = 32
    attention: Backend = "auto"
    remat: Remat = "none"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses shapes that do not come out even, and a loss in no parts."""
        positive(self, "hidden", "layers", "heads", "multiple_of", "classes")
        positive(self, "codebooks", "codes", "side", "depth_layers", "loss_chunk")
        if self.hidden % self.heads or (self.hidden // self.heads) % 4:
            raise ValueError(
                f"hidden={self.hidden} over heads={self.heads} must give heads whose "
                "width is a multiple of 4"
            )
        below_one(self, "token_dropout", "dropout")
        if self.class_dropout and not self.null_class:
            raise ValueError(
                f"class_dropout={self.class_dropout} leaves classes out, which needs "
                "null_class=True"
            )

    @property
    def tokens(self) -> int:
        """Tokens of an image L."""
        return self.side**2

    @property
    def rows(self) -> int:
        """Rows of the class table."""
        return self.classes + int(self.null_class)

    def blocks(self, layers: int) -> DecoderConfig:
        """Shape of `layers` blocks: Llama's."""
        inner = int(8 * self.hidden / 3)
        rounded = math.ceil(inner / self.multiple_of) * self.multiple_of
        return DecoderConfig(
            hidden=self.hidden,
            intermediate=self.intermediate or rounded,
            layers=layers,
            heads=self.heads,
            kv_heads=self.heads,
            head_dim=self.hidden // self.heads,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            qk_norm=False,
            dropout=self.dropout,
            init_scale=self.init_scale,
            attention=self.attention,
            remat=self.remat,
            dtype=self.dtype,
        )


def published(size: Size, **fields: Any) -> LlamaGenConfig:
    """The configuration of a published size.

    Args:
        size: B, L, XL, XXL or XXXL.
        **fields: other fields of the configuration.

    Raises:
        ValueError: an unknown size.
    """
    if size not in _SHAPES:
        sizes = ", ".join(get_args(Size))
        raise ValueError(f"LlamaGen has no size {size!r}; choose one of {sizes}")
    layers, heads, hidden = _SHAPES[size]
    return LlamaGenConfig(layers=layers, heads=heads, hidden=hidden, **fields)


class LlamaGen(nn.Module):
    """The generator.

    Parameters `classes` and `codes` (embeddings), `layers` (stacked), `norm`, `depth`.
    """

    config: LlamaGenConfig

    def setup(self) -> None:
        """Names the parts; the logits start at 0, as published."""
        config = self.config
        init = initializers.normal(config.init_scale)
        self.classes = Embedding(
            config.rows, config.hidden, table_init=init, dtype=config.dtype
        )
        self.codes = CodeEmbeddings(
            config.codebooks,
            config.codes,
            config.hidden,
            config.init_scale,
            config.dtype,
        )
        self.token_dropout = Dropout(config.token_dropout)
        trunk = config.blocks(config.layers)
        self.layers = scan_layers(
            Block, config.layers, config.remat, shared=1, static=1
        )(trunk)
        self.norm = RMSNorm(config.norm_eps)
        self.depth = DepthHead(
            config.blocks(config.depth_layers),
            config.codebooks,
            config.codes,
            positions=False,
            zero_init=True,
            chunk=config.loss_chunk,
        )

    def embed_class(self, label: jax.Array) -> jax.Array:
        """Prefix [B, 1, D] of classes int32 [B]; `config.classes` is no class."""
        return self.classes(label)[:, None]

    def embed_codes(self, codes: jax.Array) -> jax.Array:
        """Inputs [B, T, D] of tokens int32 [B, T, K]: the sum over codebooks."""
        return jnp.sum(self.codes(codes), axis=-2)

    def __call__(
        self, label: jax.Array, codes: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        """Teacher forcing over whole images.

        Args:
            label: int32 [B], classes; `config.classes` is no class.
            codes: int32 [B, L, K].
            deterministic: False for dropout, which needs the rng `dropout`.

        Returns:
            States [B, L, K, D] of the depth head, for `logits` or `score`.
        """
        x = jnp.concatenate(
            [self.embed_class(label), self.embed_codes(codes[:, :-1])], axis=1
        )  # [B, L, D]
        x = self.token_dropout(x, deterministic=deterministic)
        positions = jnp.arange(x.shape[1])[None]
        x, _ = self.layers(
            constrain(x, "batch", "length", "width"),
            None,
            Context(self._rotation(positions)),
            Mode(deterministic, return_kv=False),
        )
        return self.depth(self.norm(x), codes, deterministic=deterministic)

    def logits(self, features: jax.Array) -> jax.Array:
        """Logits float32 [..., V] of states of the depth head [..., D]."""
        return self.depth.logits(features)

    def score(self, features: jax.Array, targets: jax.Array) -> CodeScores:
        """Scores of codes int32 [B, L, K] by states [B, L, K, D]."""
        return self.depth.score(features, targets)

    def initialize(self) -> None:
        """Uses every parameter once: the method to give to `init`."""
        shape = (1, 2, self.config.codebooks)
        self.logits(self(jnp.zeros(1, jnp.int32), jnp.zeros(shape, jnp.int32)))

    @nn.nowrap
    def init_cache(self, batch: int) -> KVCache:
        """Return an empty cache for `batch` images."""
        config = self.config
        heads = (config.heads, config.hidden // config.heads)
        return KVCache.empty(
            batch, config.tokens, heads, config.dtype, layers=config.layers
        )

    def decode(self, x: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Append one position to every image.

        Args:
            x: [B, 1, D], of `embed_class` first, then of `embed_codes`.
            cache: of `init_cache` or the call before.

        Returns:
            States [B, D] that the depth head starts from, and the cache.
        """
        valid = jnp.ones((x.shape[0], 1), bool)
        rotation = self._rotation(cache.index[None, None])
        context = Context(rotation, valid=(valid, cache.valid))
        x = x.astype(self.config.dtype)
        x, new = self.layers(x, cache.entries, context, DECODING)
        return self.norm(x[:, 0]), cache.append(new, valid)

    @nn.nowrap
    def init_depth_cache(self, batch: int) -> KVCache:
        """Return an empty cache for the depths of one token of every image."""
        config = self.config
        head = DepthHead(config.blocks(config.depth_layers), config.codebooks)
        return head.init_cache(batch)

    def decode_depth(self, x: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Return logits of one code of every image, see `DepthHead.decode`."""
        return self.depth.decode(x, cache)

    def embed_depth(self, code: jax.Array, depth: jax.Array) -> jax.Array:
        """What follows a code in the depth head, see `DepthHead.embed`."""
        return self.depth.embed(code, depth)

    def _rotation(self, positions: jax.Array) -> Rotation:
        config = self.config
        width = config.hidden // config.heads
        return grid_rotation(positions, config.side, width, config.rope_theta)


def loss(
    model: LlamaGen, params: dict, batch: Batch, rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy over all codes.

    Args:
        model: the network.
        params: its parameters.
        batch: `codes` int32 [B, L, K] and `label` int32 [B].
        rng: key of all dropouts.

    Returns:
        The scalar to minimise, and the metrics loss, accuracy and weight (codes that
        they are means over).
    """
    config = model.config
    drop, noise = jax.random.split(rng)
    label = batch["label"]
    if config.class_dropout:
        unknown = jax.random.bernoulli(drop, config.class_dropout, label.shape)
        label = jnp.where(unknown, config.classes, label)

    def score(model: LlamaGen) -> CodeScores:
        states = model(label, batch["codes"], deterministic=False)
        return model.score(states, batch["codes"])

    run = partial(model.apply, {"params": params}, method=score)
    scores: Any = run(rngs={"dropout": noise})
    sums = sum_codes(scores, batch["codes"])
    total = losses.mean(sums.cross_entropy, sums.count)
    return total, {"loss": total, "accuracy": sums.accuracy, "weight": sums.count}


def system(config: LlamaGenConfig) -> System:
    """Return what the rest of the program knows of a LlamaGen."""

    def uncounted(batch: Shapes, learns: Learns) -> float:
        rows, length, depths = batch["codes"].shape
        trunk = learns("classes", "codes", "layers")
        deep = trunk or learns("norm", *PARAMETERS_BEFORE_DEPTH_ATTENTION)
        places, width = rows * length, config.hidden
        return (
            half_of_attention(config.layers, width, (rows, length), trunk)
            + half_of_attention(config.depth_layers, width, (places, depths), deep)
            + 2.0 * config.hidden * config.codes * rows * length * depths
        )

    module = LlamaGen(config)
    agreed = ("codebooks", "tokens", "classes")
    return System(
        config,
        module,
        partial(loss, module),
        lambda: {"method": "initialize"},
        DataNeeds(
            ("classes",), codes={"codes": "size"} | {name: name for name in agreed}
        ),
        sampler="unitoken_jax.generate.samplers.llamagen:LlamaGenSampler",
        uncounted_flops=uncounted,
        formats=("llamagen",),
        evaluators=("unitoken_jax.evaluate.classes:Classes",),
    )
