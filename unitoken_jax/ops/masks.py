"""Who may attend to whom: boolean masks from order, segments and validity."""

import jax
import jax.numpy as jnp

SegmentIds = tuple[jax.Array, jax.Array]
"""Segment of every query [B, T] and of every key [B, S], int32."""


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
