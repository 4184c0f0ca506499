"""How the output head's inputs are divided over the mesh in force."""

import jax

from unitoken_jax.ops.losses import Division
from unitoken_jax.parallel.rules import constrain, parts


def division(rows: int, length: int) -> Division | None:
    """For `losses.score_tokens` of [rows, length, D]; None where nothing is divided."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return Division(parts("batch", rows), parts("length", length), _kernel, _sum)


def _kernel(kernel: jax.Array) -> jax.Array:
    return constrain(kernel, "width", "vocab")


def _sum(total: jax.Array) -> jax.Array:
    return constrain(total, "batch", "length", "width", "vocab")
