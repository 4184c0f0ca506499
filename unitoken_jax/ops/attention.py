"""Softmax attention behind one interface, on the backend that fits the device.

Backends compute the same function, packed segments included:

- `xla`: plain einsums, any device; holds the [T, S] scores;
- `splash`: JAX's Pallas flash kernel for TPU (interpreted elsewhere, for tests);
- `cudnn`: cuDNN's flash attention through `jax.nn`, for GPU.

Query heads that share a key head are grouped, keys and values are never repeated.
Softmax runs in float32 whatever the type of the inputs.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import NamedSharding, PartitionSpec

SegmentIds = tuple[jax.Array, jax.Array]
"""Segment of every query [B, T] and of every key [B, S], int32."""

Backend = Literal["auto", "xla", "splash", "cudnn"]

CONTEXT = "attention_context"
"""Name of the attention output for rematerialisation policies."""

_MASKED = float(jnp.finfo(jnp.float32).min)
_LANES = 128
_CUDNN_WIDTH = 128  # of a head, before Hopper
_CUDNN_CAPABILITY = 8  # Ampere


MeshAxes = str | tuple[str, ...] | None


class Layout(NamedTuple):
    """Mesh axes over which attention's inputs are divided, for the splash backend.

    Query and key heads are divided alike; keys are whole along their length.
    """

    batch: MeshAxes = None
    heads: MeshAxes = None
    queries: MeshAxes = None


UNDIVIDED = Layout()


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    segment_ids: SegmentIds | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
    layout: Layout = UNDIVIDED,
    block: int = 512,
) -> jax.Array:
    """Attends within segments.

    Args:
        query: [B, T, N, H].
        key: [B, S, K, H], N a multiple of K; head n uses key head n // (N // K).
        value: as key.
        causal: a query sees keys of its own place in the row and before; T = S.
        segment_ids: ([B, T], [B, S]) integers >= 0; only equal ids see each other.
            Every query needs one key that it may see.
        scale: factor of the scores; H ** -0.5 when None.
        backend: `auto` takes splash on TPU, cudnn on GPU where its rules allow,
            else xla.
        layout: how the arrays are divided over the mesh in force. Splash is called on
            its shards, the other backends are divided by the compiler.
        block: most that splash's tile is along both lengths, a multiple of 128.

    Returns:
        [B, T, N, H] in query's type.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
    """
    _check(query, key, value, causal)
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    masked = segment_ids is not None
    match resolve_backend(backend, query, key, masked=masked, layout=layout):
        case "splash":
            return _splash(
                query,
                key,
                value,
                causal=causal,
                segment_ids=segment_ids,
                scale=scale,
                layout=layout,
                block=block,
            )
        case "cudnn":
            arguments = cudnn_arguments(
                query, key, value, causal=causal, segment_ids=segment_ids, scale=scale
            )
            output = jax.nn.dot_product_attention(**arguments)
            return checkpoint_name(output, CONTEXT)
        case _:
            mask = attention_mask(
                query.shape[1], key.shape[1], causal=causal, segment_ids=segment_ids
            )
            return checkpoint_name(_xla(query, key, value, mask, scale), CONTEXT)


def attention_mask(
    query_length: int,
    key_length: int,
    *,
    causal: bool,
    segment_ids: SegmentIds | None,
) -> jax.Array | None:
    """Builds the mask that every attention backend has to respect.

    Args:
        query_length: T.
        key_length: S.
        causal: a query sees keys of its own place in the row and before.
        segment_ids: a query sees keys of its own segment only.

    Returns:
        bool, broadcastable to [B, T, S], True where attention is allowed; None
        where everything is.
    """
    mask = None
    if causal:
        mask = jnp.tril(jnp.ones((1, query_length, key_length), bool))
    if segment_ids is not None:
        queries, keys = segment_ids
        same = queries[:, :, None] == keys[:, None, :]  # [B, T, S]
        mask = same if mask is None else mask & same
    return mask


def cached_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array,
    *,
    cached_key: jax.Array,
    cached_value: jax.Array,
    cached_valid: jax.Array,
    scale: float | None = None,
) -> jax.Array:
    """Attends from new positions to a cache and, causally, to one another.

    The cache is only read: the caller writes the new keys and values afterwards,
    once for all layers, so that no layer copies it.

    Args:
        query: [B, T, N, H] of the T new positions.
        key: [B, T, K, H] of the same positions.
        value: as key.
        valid: bool [B, T], False where a new position is padding.
        cached_key: [B, S, K, H].
        cached_value: as cached_key.
        cached_valid: bool [B, S], True where the cache holds a real position.
        scale: factor of the scores; H ** -0.5 when None.

    Returns:
        [B, T, N, H] in query's type; rows of padding are finite and meaningless.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if scale is None:
        scale = 1.0 / math.sqrt(head_dim)
    # [B, T, N, H] → [B, T, K, G, H] for groups of G = N / K
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    causal = jnp.tril(jnp.ones((length, length), bool))
    old = _scores(grouped, cached_key, scale)  # [B, K, G, T, S]
    new = _scores(grouped, key, scale)  # [B, K, G, T, T]
    old = jnp.where(cached_valid[:, None, None, None, :], old, _MASKED)
    new = jnp.where((valid[:, None, :] & causal)[:, None, None], new, _MASKED)
    weights = jax.nn.softmax(jnp.concatenate([old, new], axis=-1), axis=-1)
    weights = weights.astype(value.dtype)
    old, new = jnp.split(weights, [cached_key.shape[1]], axis=-1)
    output = _weighted(old, cached_value) + _weighted(new, value)
    # [B, T, K, G, H] → [B, T, N, H]
    return output.reshape(query.shape).astype(query.dtype)


def resolve_backend(
    backend: Backend,
    query: jax.Array,
    key: jax.Array,
    *,
    masked: bool,
    layout: Layout = UNDIVIDED,
) -> Backend:
    """Chooses the backend that `auto` stands for on the device in force.

    The device is that of the mesh in force (also when compiling for a TPU that is
    not there), else JAX's default one.

    Args:
        backend: a name.
        query: as in `attention`, or its shape and type.
        key: likewise.
        masked: whether segments, or anything but causality, hide keys.
        layout: as in `attention`.

    Raises:
        ValueError: an unknown name.
    """
    if backend not in get_args(Backend):
        raise ValueError(
            f"attention backend {backend!r} is not known; "
            f"choose one of {', '.join(get_args(Backend))}"
        )
    if backend != "auto":
        return backend
    platform = _platform()
    if platform == "tpu":
        return "splash"
    if platform in ("gpu", "cuda") and _suits_cudnn(query, key, masked, layout):
        return "cudnn"
    return "xla"


def _suits_cudnn(
    query: jax.Array, key: jax.Array, masked: bool, layout: Layout
) -> bool:
    """Whether cuDNN's kernels take these arrays, gradients included.

    They do on every CUDA GPU since Ampere.
    """
    lengths_odd = query.shape[1] % 2 or key.shape[1] % 2
    return (
        query.dtype in (jnp.bfloat16, jnp.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= _CUDNN_WIDTH
        and not (masked and lengths_odd)
        and layout.queries is None  # it wants rows whole
        and _has_cudnn()
    )


def _has_cudnn() -> bool:
    """Whether the GPUs that are here are CUDA's, since Ampere; True if none is."""
    if jax.default_backend() != "gpu":
        return True  # compiled for GPUs elsewhere, of which no capability is known
    # "8.6" of CUDA, "gfx90a" of ROCm.
    major, *_ = getattr(jax.local_devices()[0], "compute_capability", "").split(".")
    return major.isdigit() and int(major) >= _CUDNN_CAPABILITY


def cudnn_arguments(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    segment_ids: SegmentIds | None,
    scale: float,
) -> dict[str, Any]:
    """Arguments of `jax.nn.dot_product_attention` for cuDNN.

    Segments go in as a mask: cuDNN's own packed layout wants the offsets of the
    sequences as static counts, and without either it would silently attend across.
    """
    mask = attention_mask(
        query.shape[1], key.shape[1], causal=False, segment_ids=segment_ids
    )
    return {
        "query": query,
        "key": key,
        "value": value,
        "mask": None if mask is None else mask[:, None],  # [B, 1, T, S]
        "is_causal": causal,
        "scale": scale,
        "implementation": "cudnn",
    }


def _check(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> None:
    if key.shape != value.shape or query.shape[0] != key.shape[0]:
        raise ValueError(
            f"attention got query {query.shape}, key {key.shape} and value "
            f"{value.shape}; key and value must be equal [B, S, K, H], query "
            "[B, T, N, H]"
        )
    if query.shape[2] % key.shape[2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"attention got {query.shape[2]} query heads of {query.shape[3]} and "
            f"{key.shape[2]} key heads of {key.shape[3]}; the head widths must be "
            "equal and the query heads a multiple of the key heads"
        )
    if causal and query.shape[1] != key.shape[1]:
        raise ValueError(
            f"causal attention needs as many keys as queries, got {key.shape[1]} and "
            f"{query.shape[1]}; use cached_attention for decoding"
        )


def _platform() -> str:
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def _scores(grouped: jax.Array, key: jax.Array, scale: float) -> jax.Array:
    # [B, T, K, G, H] · [B, S, K, H] → [B, K, G, T, S]
    scores = jnp.einsum(
        "btkgh,bskh->bkgts", grouped, key, preferred_element_type=jnp.float32
    )
    return scores * scale


def _weighted(weights: jax.Array, value: jax.Array) -> jax.Array:
    # [B, K, G, T, S] · [B, S, K, H] → [B, T, K, G, H]
    return jnp.einsum(
        "bkgts,bskh->btkgh", weights, value, preferred_element_type=jnp.float32
    )


def _xla(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    scale: float,
) -> jax.Array:
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    # [B, T, N, H] → [B, T, K, G, H] for groups of G = N / K
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = _scores(grouped, key, scale)  # [B, K, G, T, S]
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    output = _weighted(weights, value)
    # [B, T, K, G, H] → [B, T, N, H]
    return output.reshape(query.shape).astype(query.dtype)


def _splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    segment_ids: SegmentIds | None,
    scale: float,
    layout: Layout,
    block: int,
) -> jax.Array:
    """Pads to the kernel's tiles, calls it on every shard of the mesh, unpads."""
    mesh = jax.sharding.get_abstract_mesh()
    layout = UNDIVIDED if mesh.empty else layout
    shards = _shards(mesh, layout.queries)
    batch, query_length, heads, head_dim = query.shape
    key_length = key.shape[1]
    query_block, padded_queries = _tiles(query_length, shards, block)
    if causal:
        key_block, padded_keys = query_block, padded_queries
    else:
        key_block, padded_keys = _tiles(key_length, 1, block)
    if segment_ids is None:
        segment_ids = (
            jnp.zeros((batch, query_length), jnp.int32),
            jnp.zeros((batch, key_length), jnp.int32),
        )
    # Padding is a segment of its own: no real query sees it.
    segments = (
        _pad(segment_ids[0], 1, padded_queries, -1),
        _pad(segment_ids[1], 1, padded_keys, -1),
    )
    # In float32: a scale rounded to bfloat16 would be off by up to 0.4 %.
    query = (query.astype(jnp.float32) * scale).astype(query.dtype)
    query, key, value = (
        _pad(_pad(array.swapaxes(1, 2), 2, length), 3, _round_up(head_dim, _LANES))
        for array, length in (
            (query, padded_queries),
            (key, padded_keys),
            (value, padded_keys),
        )
    )  # [B, heads, length, width]
    # A full mask is the same for every shard of the queries; a causal one is not.
    tables = PartitionSpec(None, layout.queries if causal else None)
    kernel = _splash_kernel(
        heads // _shards(mesh, layout.heads),
        (padded_queries if causal else padded_queries // shards, padded_keys),
        (query_block, key_block),
        causal=causal,
        query_shards=shards if causal else 1,
    )

    def run(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segments: SegmentIds,
        kernel: Callable[..., Any],
    ) -> jax.Array:
        ids = splash_attention_kernel.SegmentIds(*segments)
        return jax.vmap(kernel)(query, key, value, ids)

    if not mesh.empty:
        queries = PartitionSpec(layout.batch, layout.heads, layout.queries, None)
        keys = PartitionSpec(layout.batch, layout.heads, None, None)
        run = jax.shard_map(
            run,
            in_specs=(
                queries,
                keys,
                keys,
                (
                    PartitionSpec(layout.batch, layout.queries),
                    PartitionSpec(layout.batch, None),
                ),
                kernel.manual_sharding_spec(NamedSharding(mesh, tables)),
            ),
            out_specs=queries,
            check_vma=False,
        )
    output = run(query, key, value, segments, kernel)
    return output[:, :, :query_length, :head_dim].swapaxes(1, 2)


def _splash_kernel(
    heads: int,
    lengths: tuple[int, int],
    blocks: tuple[int, int],
    *,
    causal: bool,
    query_shards: int,
) -> splash_attention_kernel.SplashAttentionKernel:
    mask_class = (
        splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask
    )
    query_block, key_block = blocks
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask_class(lengths)] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=query_block,
            block_kv=key_block,
            block_kv_compute=key_block,
            block_q_dkv=query_block,
            block_kv_dkv=key_block,
            block_kv_dkv_compute=key_block,
            block_q_dq=query_block,
            block_kv_dq=key_block,
        ),
        head_shards=1,  # every head has the same mask: one table serves all shards
        q_seq_shards=query_shards,
        residual_checkpoint_name=CONTEXT,
        interpret=_platform() != "tpu",
    )


def _shards(mesh: jax.sharding.AbstractMesh, axes: MeshAxes) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _tiles(length: int, shards: int, block: int) -> tuple[int, int]:
    """Block size and padded length of one axis that is divided over shards.

    Blocks are as few as `block` allows, and then as small as cover the length: 729
    positions take two blocks of 384, not two of 512.
    """
    per_shard = -(-length // shards)
    blocks = -(-per_shard // block)
    tile = _round_up(-(-per_shard // blocks), _LANES)
    return tile, tile * blocks * shards


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(array: jax.Array, axis: int, length: int, value: int = 0) -> jax.Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return jnp.pad(array, widths, constant_values=value)
