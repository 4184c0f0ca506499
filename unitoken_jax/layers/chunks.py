"""A part of a module that a batch passes in chunks, see `ops.chunks`."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import linen as nn

from unitoken_jax.ops import chunks as batches

Module = TypeVar("Module", bound=nn.Module)


def apply_in_chunks(
    module: Module,
    transform: Callable[[Module, jax.Array], jax.Array],
    rows: jax.Array,
    chunks: int,
) -> jax.Array:
    """Apply `transform(module, rows)`, which treats rows alike and draws nothing.

    The parameters are the same with any number of chunks, and so are their names.

    Args:
        module: whose parameters it uses; call this in its compact method.
        transform: [b, …] of any b → [b, …].
        rows: [B, …].
        chunks: how many; each but a single one is computed again for the gradient.
    """
    if chunks == 1 or module.is_initializing():
        return transform(module, rows)

    def one(module: Module, carry: None, part: jax.Array) -> tuple[None, jax.Array]:
        return carry, transform(module, part)

    scan = nn.scan(
        nn.remat(one, prevent_cse=False),  # the loop is a barrier already
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    _, made = scan(module, None, batches.split(rows, chunks))
    return batches.join(made)
