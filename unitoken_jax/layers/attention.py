"""Multi-head attention with named parameters, for training and with a cache."""

from functools import partial
from typing import Protocol

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from unitoken_jax.config import positive
from unitoken_jax.layers.kv_cache import KeyValue
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import HeadNorm
from unitoken_jax.layers.parameter import Initializer
from unitoken_jax.layers.quantization import Quantization
from unitoken_jax.ops import attention as ops
from unitoken_jax.ops.attention import SegmentIds
from unitoken_jax.ops.rotary import Rotation, rotate
from unitoken_jax.parallel.rules import constrain, partition

# How attention is divided if rows are, behind the axis of the rows: every shard of one
# gathers all keys, or
_GATHERED = (
    ("length", "heads", "head_dim"),
    (None, "kv_heads", "head_dim"),
)
# exchanges its positions of all heads for all positions of its heads (all-to-all, as
# DeepSpeed-Ulysses, arXiv 2309.14509): less to send, and causal work is even.
_EXCHANGED = (
    (None, "row_heads", "head_dim"),
    (None, "row_heads", "head_dim"),
)

Axes = tuple[str | None, ...]


class HasHeads(Protocol):
    """A config of layers with attention."""

    @property
    def hidden(self) -> int:
        """Width."""
        ...

    @property
    def heads(self) -> int:
        """How many."""
        ...


def check_heads(config: HasHeads) -> None:
    """Refuse a config whose `heads` do not divide its width `hidden` evenly.

    Raises:
        ValueError: naming both.
    """
    positive(config, "hidden", "layers", "heads")
    if config.hidden % config.heads:
        raise ValueError(
            f"hidden={config.hidden} must be a multiple of heads={config.heads}"
        )


class Attention(nn.Module):
    """Attention; parameters `query`, `key`, `value`, `out`, with QK-norm its norms.

    Kernels are query [D, N, H], key and value [D, K, H], out [N, H, D].

    Attributes:
        heads: N.
        kv_heads: K, a divisor of N.
        head_dim: H.
        use_bias: whether the four maps have biases.
        norm_rows: rows of the QK-norm's parameters; 0 for no QK-norm.
        backend: see `ops.attention`.
        block: see `ops.attention`.
        kernel_init: initializer of the kernels; normal, variance 1 / fan-in, if None.
        out_init: initializer of the output's kernel where it differs.
        rows: logical name of the axis B.
        quantization: in what the four maps multiply, see `layers.quantization`.
        dtype: type of the computation.
    """

    heads: int
    kv_heads: int
    head_dim: int
    use_bias: bool = False
    norm_rows: int = 0
    backend: ops.Backend = "auto"
    block: int = 512
    kernel_init: Initializer | None = None
    out_init: Initializer | None = None
    rows: str = "batch"
    quantization: Quantization = "full"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        source: jax.Array | None = None,
        angles: jax.Array | Rotation | None = None,
        causal: bool = False,
        segment_ids: SegmentIds | None = None,
        cache: KeyValue | None = None,
        valid: SegmentIds | None = None,
    ) -> tuple[jax.Array, KeyValue]:
        """Attends from x to itself, to a source, or to a cache and itself.

        Args:
            x: [B, T, D].
            source: [B, S, D] to attend to; x itself when None.
            angles: of `rotary_angles` for x's positions, [B, T, H/2]; or a rotation.
            causal: whether a position sees only itself and what stands before.
            segment_ids: see `ops.attention`.
            cache: keys and values of earlier positions, rotated already.
            valid: with a cache, bool ([B, T], [B, S]): which positions of x and of
                the cache are real.

        Returns:
            [B, T, D], and the keys and values of x (or of the source).
        """
        linear = partial(
            Linear,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            quantization=self.quantization,
            dtype=self.dtype,
        )
        keys = partial(
            linear, (self.kv_heads, self.head_dim), ("embed", "kv_heads", "head_dim")
        )
        queries = partial(
            linear, (self.heads, self.head_dim), ("embed", "heads", "head_dim")
        )
        source = x if source is None else source
        query, key = queries(name="query")(x), keys(name="key")(source)
        if self.norm_rows:
            query = checkpoint_name(query, "query_before_norm")
            key = checkpoint_name(key, "key_before_norm")
            query = HeadNorm(self.norm_rows, name="query_norm")(query)
            key = HeadNorm(self.norm_rows, name="key_norm")(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        of_queries, of_keys = (
            (self.rows, *axes) for axes in _division(self.heads, self.kv_heads)
        )
        value = keys(name="value")(source)
        # First where they are computed, in the type that is sent: left to itself the
        # compiler gathers all positions of x instead, or exchanges float32.
        query, key, value = (
            constrain(array.astype(self.dtype), self.rows, "length", *axes[1:])
            for array, axes in (
                (query, _GATHERED[0]),
                (key, _GATHERED[1]),
                (value, _GATHERED[1]),
            )
        )
        query, key, value = (
            checkpoint_name(constrain(array, *axes), name)
            for array, axes, name in (
                (query, of_queries, "query"),
                (key, of_keys, "key"),
                (value, of_keys, "value"),
            )
        )
        if cache is None or valid is None:
            output = ops.attention(
                query,
                key,
                value,
                causal=causal,
                segment_ids=segment_ids,
                backend=self.backend,
                layout=_layout(query.shape, of_queries),
                block=self.block,
            )
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
        axes = ("heads_contracted", "head_dim", "embed")
        output = constrain(output, self.rows, *_GATHERED[0])
        init = self.out_init or self.kernel_init
        out = linear((x.shape[-1],), axes, kernel_init=init, name="out")
        output = checkpoint_name(out(output), "attention_out")
        return output, KeyValue(key, value)


def _division(heads: int, kv_heads: int) -> tuple[Axes, Axes]:
    """Names of the axes of queries and of keys, behind the first, while they attend."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = mesh.shape.get("sequence", 1)
    shards = rows * mesh.shape.get("tensor", 1)
    exchanges = rows > 1 and not (heads % shards or kv_heads % shards)
    return _EXCHANGED if exchanges else _GATHERED


def _layout(shape: tuple[int, ...], axes: Axes) -> ops.Layout:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ops.UNDIVIDED
    batch, queries, heads, _ = partition(axes, shape, mesh, "attention's queries")
    return ops.Layout(batch=batch, heads=heads, queries=queries)
