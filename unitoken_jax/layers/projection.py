"""UniTok's attention projection between the encoder's width and the codes'.

One transformer block whose input and output widths differ (arXiv 2502.20321, section
3.3): y = shortcut(norm(x)) + attention(norm(x)), then y + mlp(norm(y)).
"""

from functools import partial

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from unitoken_jax.layers.kv_cache import KeyValue
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.mlp import GeGLU
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import vit_init
from unitoken_jax.ops import attention as ops
from unitoken_jax.ops.attention import SegmentIds


class ResizingAttention(nn.Module):
    """Self-attention from D channels to O; parameters `query`, `key`, `value`, `out`.

    It works at the larger of both widths. Towards more channels its heads are
    concatenated; towards fewer they are averaged, and each head's channels pooled to O
    where there are more. The key map has no bias, query and value maps have.

    Attributes:
        features: O.
        heads: N.
        causal: whether a position sees only itself and what stands before.
        dtype: type of the computation.
    """

    features: int
    heads: int
    causal: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, cache: KeyValue | None, valid: SegmentIds | None
    ) -> tuple[jax.Array, KeyValue]:
        """Attends; arguments as `AttentionProjection`."""
        width = max(x.shape[-1], self.features)
        if width % self.heads:
            raise ValueError(
                f"the attention projection works at width {width}, which "
                f"{self.heads} heads do not divide"
            )
        linear = partial(Linear, kernel_init=vit_init, dtype=self.dtype)
        into = partial(
            linear,
            (self.heads, width // self.heads),
            ("embed", "heads", "head_dim"),
        )
        query = checkpoint_name(into(use_bias=True, name="query")(x), "query")
        key = checkpoint_name(into(name="key")(x), "key")
        value = checkpoint_name(into(use_bias=True, name="value")(x), "value")
        if cache is None or valid is None:
            # A few hundred positions of one image: no kernel pays here.
            output = ops.attention(query, key, value, causal=self.causal, backend="xla")
        else:
            output = ops.cached_attention(
                query,
                key,
                value,
                valid[0],
                cached_key=cache.key,
                cached_value=cache.value,
                cached_valid=valid[1],
            )
        if x.shape[-1] > self.features:
            pooled = _pool(output.mean(2), self.features)  # [B, T, O]
            out = linear((self.features,), (None, "embed"), use_bias=True, name="out")
            return out(pooled), KeyValue(key, value)
        axes = ("heads_contracted", "head_dim", "embed")
        out = linear((self.features,), axes, use_bias=True, name="out")
        return out(output), KeyValue(key, value)


class AttentionProjection(nn.Module):
    """The block; parameters `attention`, `shortcut`, `mlp` and three norms.

    Attributes:
        features: output width O.
        heads: attention heads N.
        causal: whether a position sees only itself and what stands before: True in the
            multimodal LLM's code embedder and the tokenizer of February 2025, False in
            the tokenizer published since.
        dtype: type of the computation.
    """

    features: int
    heads: int
    causal: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        cache: KeyValue | None = None,
        valid: SegmentIds | None = None,
    ) -> tuple[jax.Array, KeyValue]:
        """Projects.

        Args:
            x: [B, T, D].
            cache: keys and values of earlier positions, for a causal projection that
                is fed position by position.
            valid: with a cache, bool ([B, T], [B, S]): which positions of x and of
                the cache are real.

        Returns:
            [B, T, O], and the keys and values of x.
        """
        norm = partial(LayerNorm, 1e-5)
        attention = ResizingAttention(
            self.features,
            self.heads,
            self.causal,
            self.dtype,
            name="attention",
        )
        change, new_kv = attention(norm(name="attention_norm")(x), cache, valid)
        shortcut = Linear(
            (self.features,),
            ("embed", None),
            use_bias=True,
            kernel_init=vit_init,
            dtype=self.dtype,
            name="shortcut",
        )
        y = shortcut(norm(name="shortcut_norm")(x)) + change
        mlp = GeGLU(2 * self.features, dtype=self.dtype, name="mlp")
        return y + mlp(norm(name="mlp_norm")(y)), new_kv


def _pool(x: jax.Array, features: int) -> jax.Array:
    """Means of neighbouring channels: [B, T, H] to [B, T, features]."""
    if x.shape[-1] % features:
        raise ValueError(
            f"heads of {x.shape[-1]} channels cannot be pooled to {features}; choose a "
            "number of heads whose width is a multiple of the output's"
        )
    # [B, T, H] → [B, T, O, H / O] → [B, T, O]
    return x.reshape(*x.shape[:-1], features, -1).mean(-1)
