"""A batch in chunks, one after another, so that few rows are worked on at once."""

import functools
import math
from collections.abc import Callable

import jax


def split(rows: jax.Array, chunks: int) -> jax.Array:
    """Deal the rows [B, …] out to chunks, [chunks, B / chunks, …].

    Chunk p has the rows p, p + chunks, …: each device deals out its own, and none
    moves. A batch that does not divide has as many chunks as divide both.
    """
    batch, *shape = rows.shape
    chunks = math.gcd(chunks, batch)
    # In full: nothing could be inferred from an array without elements.
    # [B, …] → [B / chunks, chunks, …]
    dealt = rows.reshape(batch // chunks, chunks, *shape)
    return dealt.swapaxes(0, 1)


def join(chunks: jax.Array) -> jax.Array:
    """Return the rows [B, …] of chunks [chunks, B / chunks, …] in their order."""
    count, size, *shape = chunks.shape
    # [chunks, B / chunks, …] → [B / chunks, chunks, …] → [B, …]
    return chunks.swapaxes(0, 1).reshape(count * size, *shape)


def chunked_map(
    function: Callable[..., jax.Array], chunks: int, *rows: jax.Array
) -> jax.Array:
    """Apply a function of rows, each alike, to a batch in chunks.

    Its gradient computes each chunk again: besides `rows` only what one chunk needs
    is in memory at a time.

    Args:
        function: arrays [b, …] of any b → an array [b, …].
        chunks: how many; 1 applies the function as it is.
        *rows: arrays [B, …].

    Returns:
        What the function gives for the whole batch.
    """
    if chunks == 1:
        return function(*rows)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # the loop is a barrier
    def one(part: tuple) -> jax.Array:
        return function(*part)

    return join(jax.lax.map(one, tuple(split(array, chunks) for array in rows)))
