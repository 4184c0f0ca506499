"""Cross-entropy over image codes, several codebooks a position, in chunks.

As for text (`ops.losses`) the logits of all positions never exist at once: they are
computed chunk by chunk, and again for the gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unitoken_jax.ops.losses import mean


class CodeScores(NamedTuple):
    """What the head says about every code, float32 [B, M, K] each.

    `cross_entropy` is -log p(target), `highest` the largest logit (UniTok's z-loss is
    its square), `correct` 1 where the target has it. All are 0 where the target is -1.
    """

    cross_entropy: jax.Array
    highest: jax.Array
    correct: jax.Array


class CodeSums(NamedTuple):
    """`CodeScores` summed over all codes with a target; scalars, float32.

    `z` sums the squared largest logits.
    """

    cross_entropy: jax.Array
    z: jax.Array
    correct: jax.Array
    count: jax.Array

    @property
    def accuracy(self) -> jax.Array:
        """Share of the codes that have the largest logit."""
        return mean(self.correct, self.count)


def code_logits(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Logits float32 [..., V] of hidden states [..., D], multiplied in their type."""
    # [..., D] · [D, V] → [..., V]
    logits = jnp.einsum(
        "...d,dv->...v",
        hidden,
        kernel.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    return logits + bias.astype(jnp.float32)


def score_codes(
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    *,
    chunk: int = 64,
) -> CodeScores:
    """Scores codes under softmax(hidden @ kernel + bias).

    Args:
        hidden: [B, M, K, D].
        kernel: [D, V].
        bias: [V].
        targets: int32 [B, M, K] in [0, V), or -1 for codes without loss.
        chunk: positions of every row whose logits are held at once.

    Returns:
        Scores of every code, differentiable by hidden, kernel and bias.
    """
    length = targets.shape[1]
    chunks = max(-(-length // chunk), 1)
    padding = -length % chunks
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding), (0, 0)), constant_values=-1)

    @jax.checkpoint
    def score(hidden: jax.Array, target: jax.Array) -> CodeScores:
        logits = code_logits(hidden, kernel, bias)  # [B, m, K, V]
        real = target >= 0
        index = jnp.maximum(target, 0)[..., None]
        chosen = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
        highest = jnp.max(logits, axis=-1)
        correct = (jnp.argmax(logits, axis=-1) == index[..., 0]) & real
        return CodeScores(
            jnp.where(real, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0),
            jnp.where(real, highest, 0.0),
            correct.astype(jnp.float32),
        )

    scores = jax.lax.map(
        lambda part: score(*part), (_split(hidden, chunks), _split(targets, chunks))
    )
    return jax.tree.map(lambda array: _join(array)[:, :length], scores)


def sum_codes(scores: CodeScores, targets: jax.Array) -> CodeSums:
    """Sums scores over all codes with a target."""
    return CodeSums(
        cross_entropy=jnp.sum(scores.cross_entropy),
        z=jnp.sum(jnp.square(scores.highest)),
        correct=jnp.sum(scores.correct),
        count=jnp.sum((targets >= 0).astype(jnp.float32)),
    )


def _split(array: jax.Array, chunks: int) -> jax.Array:
    """[B, M, ...] to [chunks, B, M / chunks, ...]."""
    batch, length, *rest = array.shape
    # [B, M, …] → [B, chunks, m, …] → [chunks, B, m, …]
    return jnp.moveaxis(array.reshape(batch, chunks, length // chunks, *rest), 1, 0)


def _join(array: jax.Array) -> jax.Array:
    chunks, batch, length, *rest = array.shape
    # [chunks, B, m, …] → [B, chunks, m, …] → [B, M, …]
    return jnp.moveaxis(array, 0, 1).reshape(batch, chunks * length, *rest)
