"""The decoder of Chameleon (arXiv 2405.09818) and Llama (arXiv 2307.09288).

Chameleon, which UniToken and Lumina-mGPT train, is Llama with layer normalization of
every query and key head before the rotation; with `qk_norm=False` it is Llama itself,
whose blocks UniTok's LLM and LlamaGen have. Mirrors the published
`modeling_chameleon.py`.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Amount, Positive, below_one, positive
from unitoken_jax.layers.attention import Attention
from unitoken_jax.layers.kv_cache import KeyValue, KVCache
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.mlp import GatedMLP
from unitoken_jax.layers.norms import RMSNorm
from unitoken_jax.layers.quantization import Dtype, Quantization
from unitoken_jax.layers.residual import Dropout
from unitoken_jax.layers.stack import Remat, scan_layers
from unitoken_jax.layers.vocabulary import Embedding, vocab_sharding
from unitoken_jax.models.system import Shapes, half_of_attention
from unitoken_jax.ops import losses
from unitoken_jax.ops.attention import Backend, SegmentIds
from unitoken_jax.ops.rotary import Rotation, rotary_angles
from unitoken_jax.parallel.rules import constrain


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the decoder; the defaults are Chameleon-7B as in UniToken.

    Attributes:
        vocab_size: V, image codes included.
        hidden: model width D.
        intermediate: inner width F of the gated MLP.
        layers: number of blocks L.
        heads: query heads N.
        kv_heads: key and value heads K, a divisor of N.
        head_dim: width of a head H.
        rope_theta: base wavelength of the rotary embedding, in positions.
        norm_eps: added to the mean square in the RMS norms (QK-norm has its own).
        qk_norm: whether queries and keys are normalized; False gives Llama.
        model_parallel_size: rows of the QK-norm's parameters (1 in 7B, 4 in 34B).
        swin_norm: norms after attention and MLP instead of before (34B).
        dropout: rate of the residual dropout.
        init_scale: standard deviation of all matrices at initialisation.
        attention: backend of the attention, see `ops.attention`.
        attention_block: tile of the splash backend.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        quantization: in what the blocks' linear maps multiply, see
            `layers.quantization`.
        dtype: type of the computation; parameters are float32.
    """

    vocab_size: int = 65_536
    hidden: int = 4096
    intermediate: int = 11_008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int = 128
    rope_theta: Positive = 10_000.0
    norm_eps: Positive = 1e-5
    qk_norm: bool = True
    model_parallel_size: int = 1
    swin_norm: bool = False
    dropout: float = 0.0
    init_scale: Amount = 0.02
    attention: Backend = "auto"
    attention_block: int = 512
    remat: Remat = "none"
    quantization: Quantization = "full"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses heads and tiles that do not come out even, and what has no size."""
        sizes = ("vocab_size", "hidden", "intermediate", "layers", "heads", "kv_heads")
        positive(self, *sizes, "head_dim", "model_parallel_size")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}"
            )
        if self.attention_block < 128 or self.attention_block % 128:
            raise ValueError(
                f"attention_block={self.attention_block} must be a multiple of 128"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} must be even: the rotation takes pairs"
            )
        rows = self.model_parallel_size
        if self.qk_norm and self.kv_heads % rows:
            raise ValueError(
                f"model_parallel_size={rows} must divide heads={self.heads} and "
                f"kv_heads={self.kv_heads}: QK-norm has so many rows"
            )
        below_one(self, "dropout")


CHAMELEON_34B = DecoderConfig(
    hidden=8192,
    intermediate=22_016,
    layers=48,
    heads=64,
    kv_heads=8,
    model_parallel_size=4,
    swin_norm=True,
)
"""Chameleon-34B: 34,293,522,432 parameters, in published configurations also "30b"."""

LLAMA_2_7B = DecoderConfig(vocab_size=32_000, qk_norm=False)
"""Llama-2-7B (arXiv 2307.09288), from which UniTok's LLM starts: 6,738,415,616."""


class Context(NamedTuple):
    """What all blocks of a row share.

    Attributes:
        angles: of the rotary embedding, [B, T, H/2], or a rotation.
        segment_ids: ([B, T], [B, T]) when whole rows run; None with a cache.
        valid: with a cache, bool ([B, T], [B, S]): the real new and old positions.
    """

    angles: jax.Array | Rotation
    segment_ids: SegmentIds | None = None
    valid: SegmentIds | None = None


class Mode(NamedTuple):
    """How the blocks run, known when they are compiled.

    Attributes:
        deterministic: False for dropout, which needs the rng `dropout`.
        return_kv: whether each gives its keys and values too.
    """

    deterministic: bool
    return_kv: bool


DECODING = Mode(deterministic=True, return_kv=True)


class Block(nn.Module):
    """Attention and MLP with residuals; in the order that `swin_norm` says."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        cache: KeyValue | None,
        context: Context,
        mode: Mode,
    ) -> tuple[jax.Array, KeyValue | None]:
        """Transforms [B, T, D]; gives its keys and values too if `mode` says so."""
        config = self.config
        init = initializers.normal(config.init_scale)
        attention = Attention(
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            norm_rows=config.model_parallel_size if config.qk_norm else 0,
            backend=config.attention,
            block=config.attention_block,
            kernel_init=init,
            quantization=config.quantization,
            dtype=config.dtype,
            name="attention",
        )
        mlp = GatedMLP(
            config.intermediate, init, config.quantization, config.dtype, name="mlp"
        )
        attention_norm = RMSNorm(config.norm_eps, name="attention_norm")
        mlp_norm = RMSNorm(config.norm_eps, name="mlp_norm")
        dropout = partial(Dropout(config.dropout), deterministic=mode.deterministic)
        attend = partial(
            attention,
            angles=context.angles,
            causal=True,
            segment_ids=context.segment_ids,
            cache=cache,
            valid=context.valid,
        )
        if config.swin_norm:
            change, new_kv = attend(x)
            x = x + dropout(attention_norm(change))
            x = x + dropout(mlp_norm(mlp(x)))
        else:
            change, new_kv = attend(attention_norm(x))
            x = x + dropout(change)
            x = x + dropout(mlp(mlp_norm(x)))
        x = constrain(x, "batch", "length", "width")
        return x, new_kv if mode.return_kv else None


class Decoder(nn.Module):
    """The decoder; parameters `embedding`, `layers` (stacked), `norm` and `head`."""

    config: DecoderConfig

    def setup(self) -> None:
        """Names the parts."""
        config = self.config
        init = initializers.normal(config.init_scale)
        self.embedding = Embedding(
            config.vocab_size, config.hidden, table_init=init, dtype=config.dtype
        )
        self.layers = scan_layers(
            Block, config.layers, config.remat, shared=1, static=1
        )(config)
        self.norm = RMSNorm(config.norm_eps)
        self.head = Linear(
            (config.vocab_size,),
            ("embed", "vocab"),
            kernel_init=init,
            dtype=config.dtype,
        )

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Embeddings [B, T, D] of token ids [B, T]."""
        return self.embedding(tokens)

    def __call__(
        self,
        embeddings: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Runs whole rows.

        Args:
            embeddings: [B, T, D].
            positions: int32 [B, T], from 0 in every segment.
            segment_ids: int32 [B, T]; positions see their own segment only. None for
                one segment a row.
            deterministic: False for dropout, which needs the rng `dropout`.

        Returns:
            [B, T, D] after the final norm.
        """
        segments = None if segment_ids is None else (segment_ids, segment_ids)
        x, _ = self.layers(
            self._enter(embeddings),
            None,
            Context(self._angles(positions), segment_ids=segments),
            Mode(deterministic, return_kv=False),
        )
        return self.norm(x)

    def initialize(self) -> None:
        """Uses every parameter once: the method to give to `init`."""
        row = jnp.zeros((1, 1), jnp.int32)
        self.logits(self(self.embed(row), row))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits float32 [..., V] of [..., D] after the final norm."""
        return self.head(hidden).astype(jnp.float32)

    def score(
        self,
        hidden: jax.Array,
        targets: jax.Array,
        *,
        chunk: int,
        excluded: jax.Array | None = None,
    ) -> losses.TokenScores:
        """Score ids by hidden states without all logits at once.

        Args:
            hidden: [B, T, D] after the final norm.
            targets: int32 [B, T], -1 where nothing is scored.
            chunk: ids whose logits are held at once, for every position.
            excluded: bool [V], True for ids that get no probability; None for none.
        """
        return losses.score_tokens(
            hidden,
            self.head.get_variable("params", "kernel"),
            targets,
            chunk=chunk,
            excluded=excluded,
            sharding=vocab_sharding(self.config.vocab_size),
        )

    @nn.nowrap
    def init_cache(self, batch: int, length: int) -> KVCache:
        """Return an empty cache for `batch` rows of up to `length` positions."""
        config = self.config
        heads = (config.kv_heads, config.head_dim)
        return KVCache.empty(batch, length, heads, config.dtype, layers=config.layers)

    def prefill(
        self,
        embeddings: jax.Array,
        positions: jax.Array,
        valid: jax.Array,
        room: int,
    ) -> tuple[jax.Array, KVCache]:
        """Run prompts into a new cache, on the attention backend of training.

        Prompts of different lengths are padded on the left.

        Args:
            embeddings: [B, T, D].
            positions: int32 [B, T]; anything on padding.
            valid: bool [B, T]; False on padding, which nothing ever attends to.
            room: positions that the cache has room for behind the prompts.

        Returns:
            [B, T, D] after the final norm (meaningless on padding), and the cache.
        """
        segment = valid.astype(jnp.int32)
        context = Context(self._angles(positions), segment_ids=(segment, segment))
        hidden, new = self._run(embeddings, None, context)
        batch, length = valid.shape
        return hidden, self.init_cache(batch, length + room).append(new, valid)

    def decode(
        self,
        embeddings: jax.Array,
        positions: jax.Array,
        valid: jax.Array,
        cache: KVCache,
    ) -> tuple[jax.Array, KVCache]:
        """Append T positions to every row of a cache that has room for them.

        Args:
            embeddings: [B, T, D].
            positions: int32 [B, T]; anything on padding.
            valid: bool [B, T]; False on padding, which nothing ever attends to.
            cache: of `init_cache`, `prefill` or an earlier call.

        Returns:
            [B, T, D] after the final norm (meaningless on padding), and the cache.
        """
        context = Context(self._angles(positions), valid=(valid, cache.valid))
        hidden, new = self._run(embeddings, cache.entries, context)
        return hidden, cache.append(new, valid)

    def _run(
        self, embeddings: jax.Array, old: KeyValue | None, context: Context
    ) -> tuple[jax.Array, KeyValue]:
        """Run the blocks without dropout; return keys and values of all layers too."""
        x = self._enter(embeddings)
        x, new = self.layers(x, old, context, DECODING)
        return self.norm(x), new

    def _enter(self, embeddings: jax.Array) -> jax.Array:
        embeddings = embeddings.astype(self.config.dtype)
        return constrain(embeddings, "batch", "length", "width")

    def _angles(self, positions: jax.Array) -> jax.Array:
        return rotary_angles(positions, self.config.head_dim, self.config.rope_theta)


def uncounted_flops(config: DecoderConfig, batch: Shapes, *, upward: bool) -> float:
    """Return FLOPs of a decoder's trace that are no work of the model.

    They are half of its attention, and the logits of text, which the chunked loss
    computes again.

    Args:
        config: of the decoder.
        batch: `tokens` [B, T].
        upward: whether gradients pass through its attention.
    """
    rows, length = batch["tokens"].shape
    width = config.heads * config.head_dim
    logits = 2.0 * config.hidden * config.vocab_size * length * rows
    half = half_of_attention(config.layers, width, (rows, length), upward)
    return half + logits
