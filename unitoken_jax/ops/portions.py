"""A batch in portions, one after another, so that few rows are worked on at once."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax


def split(rows: jax.Array, portions: int) -> jax.Array:
    """Deal the rows [B, …] out to portions, [portions, B / portions, …].

    Portion p has the rows p, p + portions, …: each device deals out its own, and none
    moves. A batch that does not divide has as many portions as divide both.
    """
    batch, *shape = rows.shape
    portions = math.gcd(portions, batch)
    # In full: nothing could be inferred from an array without elements.
    dealt = rows.reshape(batch // portions, portions, *shape)
    return dealt.swapaxes(0, 1)


def join(portions: jax.Array) -> jax.Array:
    """Return the rows [B, …] of portions [portions, B / portions, …] in their order."""
    count, size, *shape = portions.shape
    return portions.swapaxes(0, 1).reshape(count * size, *shape)


def map_portions(
    function: Callable[..., jax.Array], portions: int, *rows: Any
) -> jax.Array:
    """Apply a function of rows, each alike, to a batch in portions.

    Its gradient computes each portion again: besides `rows` only what one portion needs
    is in memory at a time.

    Args:
        function: arrays [b, …] of any b → an array [b, …].
        portions: how many; 1 applies the function as it is.
        *rows: arrays [B, …].

    Returns:
        What the function gives for the whole batch.
    """
    if portions == 1:
        return function(*rows)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # the loop is a barrier
    def one(part: tuple) -> jax.Array:
        return function(*part)

    return join(jax.lax.map(one, tuple(split(array, portions) for array in rows)))
