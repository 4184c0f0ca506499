"""Tables over a vocabulary: embeddings of ids, and how the head's kernel is divided."""

import jax
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import Initializer, parameter
from unitoken_jax.ops.embedding import Layout, lookup
from unitoken_jax.ops.losses import VocabSharding
from unitoken_jax.parallel.rules import constrain, num_shards, partition


class Embedding(nn.Module):
    """Vectors of token ids; parameter `embedding` [V, D].

    Attributes:
        size: V.
        width: D.
        axes: logical names of the table's axes.
        table_init: initializer of the table.
        dtype: type of the result.
    """

    size: int
    width: int
    axes: tuple[str, str] = ("vocab", "embed")
    table_init: Initializer = initializers.normal(0.02)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Looks up ids [...] in [0, V); the result is [..., D]."""
        shape = (self.size, self.width)
        table = parameter(self, "embedding", self.table_init, self.axes, shape)

        return look_up(table, ids, self.axes, ("batch", "length"), self.dtype)


def look_up(
    table: jax.Array,
    ids: jax.Array,
    axes: tuple[str, str],
    ids_axes: tuple[str, ...],
    dtype: str,
) -> jax.Array:
    """Looks up rows of a table that is divided over the mesh in force.

    Args:
        table: [V, D].
        ids: integers of any shape, in [0, V).
        axes: logical names of the table's axes.
        ids_axes: logical names of the first axes of the ids; no other is divided.
        dtype: type of the result.

    Returns:
        [..., D].
    """

    def prepare(table: jax.Array) -> jax.Array:
        # Whole rows on every device, or the lookup would gather the result.
        return constrain(table.astype(dtype), axes[0], "width")

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return lookup(table, ids, prepare)
    names = (*ids_axes, *(None,) * ids.ndim)[: ids.ndim]
    layout = Layout(
        partition(axes, table.shape, mesh, "a table"),
        partition(names, ids.shape, mesh, "ids"),
    )
    return lookup(table, ids, prepare, layout if layout.scatters else None)


def vocab_sharding(vocabulary: int) -> VocabSharding | None:
    """For `losses.score_tokens` of a kernel [D, vocabulary]; None without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return VocabSharding(num_shards("vocab", vocabulary), _gather, _scatter)


def _gather(kernel: jax.Array) -> jax.Array:
    return constrain(kernel, "width", _parts(kernel), None)


def _scatter(gradient: jax.Array) -> jax.Array:
    return constrain(gradient, "embed", _parts(gradient), None)


def _parts(kernel: jax.Array) -> str | None:
    """The name of the second axis of [D, parts, v]; a single part has none."""
    return "vocab" if kernel.shape[1] > 1 else None
