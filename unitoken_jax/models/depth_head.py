"""The depth transformer: several codes of one image token, one after the other.

UniTok's multimodal LLM and its LlamaGen (arXiv 2502.20321) put it on their decoder,
after RQ-Transformer (arXiv 2203.01941). Behind the decoder's state h of a position it
reads the codes of that token so far, [h, E_0(c_0), ..., E_{K-2}(c_{K-2})]; output i
gives the logits of code i. All depths share one linear map.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.layers.norms import RMSNorm
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.layers.stack import scan_layers
from unitoken_jax.layers.vocabulary import look_up
from unitoken_jax.models.decoder import (
    DECODING,
    Block,
    Context,
    DecoderConfig,
    Mode,
)
from unitoken_jax.ops.code_scores import CodeScores, code_logits, score_codes
from unitoken_jax.ops.rotary import rotary_angles
from unitoken_jax.parallel.rules import constrain

PARAMETERS_BEFORE_DEPTH_ATTENTION = ("depth/embeddings", "depth/layers")
"""Paths of parameters whose gradients pass through the attention over depths."""


class CodeEmbeddings(nn.Module):
    """A table of vectors for each codebook; parameter `embedding` [C, V, D].

    Attributes:
        count: number of codebooks C; none has no parameter.
        size: codes in each V.
        width: D.
        init_scale: standard deviation of the vectors at initialisation.
        dtype: type of the result.
    """

    count: int
    size: int
    width: int
    init_scale: float = 0.02
    dtype: str = "float32"

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Looks up codes [..., c] in the first c codebooks, to [..., c, D]."""
        if not self.count:  # checkpoints hold no empty arrays
            return jnp.zeros((*jnp.shape(codes), self.width), self.dtype)
        shape = (self.count, self.size, self.width)
        axes = (None, "vocab", "embed")
        init = initializers.normal(self.init_scale)
        tables = parameter(self, "embedding", init, axes, shape)

        def rows(table: jax.Array, codes: jax.Array) -> jax.Array:
            return look_up(table, codes, ("vocab", "embed"), ("batch",), self.dtype)

        codes = jnp.asarray(codes)
        return jax.vmap(rows, (0, -1), -2)(tables[: codes.shape[-1]], codes)


class CodeHead(nn.Module):
    """The linear map to logits; parameters `kernel` [D, V] and `bias` [V].

    Attributes:
        width: D.
        size: codes in a codebook V.
        init_scale: standard deviation of the kernel at initialisation.
        chunk: positions of every row whose logits are held at once in training.
    """

    width: int
    size: int
    init_scale: float
    chunk: int

    def setup(self) -> None:
        """Declares the parameters."""
        axes = ("embed", "vocab")
        init = initializers.normal(self.init_scale)
        shape = (self.width, self.size)
        self.kernel = parameter(self, "kernel", init, axes, shape)
        self.bias = parameter(self, "bias", initializers.zeros, axes[1:], shape[1:])

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits float32 [..., V] of [..., D]."""
        return code_logits(features, self.kernel, self.bias)

    def score(self, features: jax.Array, targets: jax.Array) -> CodeScores:
        """Scores of codes int32 [B, M, K], -1 without loss, by [B, M, K, D]."""
        return score_codes(features, self.kernel, self.bias, targets, chunk=self.chunk)


class DepthHead(nn.Module):
    """The head; parameters `embeddings`, `layers` (stacked), `norm` and `head`.

    Attributes:
        config: shape of its blocks, that of the decoder below but for their number. Its
            vocabulary and attention backend are not used.
        codebooks: codes of a token K.
        codes: entries of a codebook V.
        positions: whether the rotary embedding numbers the depths (UniTok's LLM); else
            order shows in the causal mask alone (LlamaGen).
        zero_init: whether all logits start at 0 (LlamaGen).
        chunk: positions of every row whose logits are held at once in training.
    """

    config: DecoderConfig
    codebooks: int = 8
    codes: int = 4096
    positions: bool = True
    zero_init: bool = False
    chunk: int = 64

    def setup(self) -> None:
        """Names the parts."""
        config = self.config
        self.embeddings = CodeEmbeddings(
            self.codebooks - 1,
            self.codes,
            config.hidden,
            config.init_scale,
            config.dtype,
        )
        # Rows of a few depths: no kernel pays.
        block = dataclasses.replace(config, attention="xla")
        self.layers = scan_layers(
            Block, config.layers, config.remat, shared=1, static=1
        )(block)
        self.norm = RMSNorm(config.norm_eps)
        scale = 0.0 if self.zero_init else config.init_scale
        self.head = CodeHead(config.hidden, self.codes, scale, self.chunk)

    def __call__(
        self, hidden: jax.Array, codes: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        """Teacher forcing.

        Args:
            hidden: [B, M, D], states of the decoder that predict a token each.
            codes: int32 [B, M, K] of the tokens; the last of each is not read.
            deterministic: False for dropout, which needs the rng `dropout`.

        Returns:
            [B, M, K, D] after the final norm, for `logits` or `score`.
        """
        batch, length, width = hidden.shape
        known = self.embeddings(codes[..., :-1])  # [B, M, K - 1, D]
        x = jnp.concatenate([hidden[:, :, None].astype(known.dtype), known], axis=2)
        # [B, M, K, D] → [B · M, K, D]
        x = x.reshape(batch * length, self.codebooks, width)
        context = Context(self._angles(jnp.arange(self.codebooks)))
        x, _ = self.layers(
            constrain(x, "batch", None, "width"),
            None,
            context,
            Mode(deterministic, return_kv=False),
        )
        # [B · M, K, D] → [B, M, K, D]
        return self.norm(x).reshape(batch, length, self.codebooks, width)

    def logits(self, features: jax.Array) -> jax.Array:
        """Logits float32 [..., V] of [..., D] after the final norm."""
        return self.head(features)

    def score(self, features: jax.Array, targets: jax.Array) -> CodeScores:
        """Scores codes int32 [B, M, K], -1 without loss, by [B, M, K, D]."""
        return self.head.score(features, targets)

    @nn.nowrap
    def init_cache(self, rows: int) -> KVCache:
        """Return an empty cache for the depths of one token in each of `rows` rows."""
        config = self.config
        heads = (config.kv_heads, config.head_dim)
        return KVCache.empty(
            rows, self.codebooks, heads, config.dtype, layers=config.layers
        )

    def decode(self, x: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Run the next depth of one token a row.

        Args:
            x: the decoder's state [N, D] at depth 0, else `embed` of the last code.
            cache: of `init_cache` at depth 0, of the depth before otherwise; its index
                is the depth, which code is asked for.

        Returns:
            Logits float32 [N, V] of the code at this depth, and the cache.
        """
        valid = jnp.ones((x.shape[0], 1), bool)
        angles = self._angles(cache.index[None])
        context = Context(angles, valid=(valid, cache.valid))
        x = x[:, None].astype(self.config.dtype)  # [N, D] → [N, 1, D]
        x, new = self.layers(x, cache.entries, context, DECODING)
        return self.logits(self.norm(x[:, 0])), cache.append(new, valid)

    def embed(self, code: jax.Array, depth: jax.Array) -> jax.Array:
        """Input [N, D] that follows code int32 [N] of depth `depth` (below K - 1)."""
        every = jnp.broadcast_to(code[:, None], (code.shape[0], self.codebooks - 1))
        return jnp.take(self.embeddings(every), depth, axis=1)

    def _angles(self, depths: jax.Array) -> jax.Array:
        """Angles [1, depths, H/2]; without positions every depth stands at 0."""
        depths = depths if self.positions else jnp.zeros_like(depths)
        return rotary_angles(depths[None], self.config.head_dim, self.config.rope_theta)
