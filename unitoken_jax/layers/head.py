"""How the output head's kernel is divided over the mesh in force."""

import jax

from unitoken_jax.ops.losses import VocabSharding
from unitoken_jax.parallel.rules import constrain, num_shards


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
