"""Objectives: next-token cross-entropy in chunks, and SigLIP's sigmoid loss.

Neither holds its full matrix of logits: both walk over chunks and compute a chunk's
logits again for the gradient.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

_MASKED = float(jnp.finfo(jnp.float32).min)


class TokenScores(NamedTuple):
    """What the head says about every position, float32 [B, T] each.

    `cross_entropy` is -log p(target), 0 where the target is -1; `log_partition` the
    logsumexp of the logits (z-loss is its square); `correct` 1 where the target has
    the largest logit, else 0.
    """

    cross_entropy: jax.Array
    log_partition: jax.Array
    correct: jax.Array


class TokenSums(NamedTuple):
    """`TokenScores` summed over the positions that carry loss; scalars, float32."""

    cross_entropy: jax.Array
    z: jax.Array
    correct: jax.Array
    count: jax.Array


def score_tokens(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    *,
    chunk: int = 512,
    excluded: jax.Array | None = None,
) -> TokenScores:
    """Scores targets under softmax(hidden @ kernel) without all logits at once.

    Chunks are interleaved along T (positions j, j + n, j + 2n, ...), so that each
    keeps the division of B and T over devices.

    Args:
        hidden: [B, T, D], in the type the product is computed in; sums are float32.
        kernel: [D, V]; cast to hidden's type inside, its gradient is float32.
        targets: int32 [B, T] in [0, V), or -1 for positions without loss.
        chunk: positions of every row whose logits are held at once.
        excluded: bool [V], True for entries whose logit counts as the lowest
            float, as `mask_image_logits` of the published code does.

    Returns:
        Scores of every position, differentiable by hidden and kernel.
    """
    length = targets.shape[1]
    chunks = -(-length // chunk)
    padding = -length % chunks
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)), constant_values=-1)
    scores = _score(
        _interleave(hidden, chunks), kernel, _interleave(targets, chunks), excluded
    )
    return jax.tree.map(lambda score: _restore(score)[:, :length], scores)


def sum_scores(scores: TokenScores, where: jax.Array) -> TokenSums:
    """Sums scores over chosen positions.

    Args:
        scores: of `score_tokens`.
        where: bool [B, T]; positions whose target is -1 must be False.
    """
    weight = where.astype(jnp.float32)
    return TokenSums(
        cross_entropy=jnp.sum(scores.cross_entropy * weight),
        z=jnp.sum(jnp.square(scores.log_partition) * weight),
        correct=jnp.sum(scores.correct * weight),
        count=jnp.sum(weight),
    )


def mean(total: jax.Array, count: jax.Array) -> jax.Array:
    """Quotient total / count, and 0 where nothing was counted."""
    return total / jnp.maximum(count, 1.0)


def sigmoid_loss(
    images: jax.Array,
    texts: jax.Array,
    log_scale: jax.Array,
    bias: jax.Array,
    *,
    chunk: int = 1024,
) -> tuple[jax.Array, jax.Array]:
    """SigLIP's loss (Zhai et al., arXiv 2303.15343, algorithm 1).

    -1/B sum_ij log sigmoid(z_ij (exp(log_scale) x_i . y_j + bias)), z_ij = 1 for
    i = j and -1 otherwise; B is the whole batch, on however many devices.

    Args:
        images: [B, D], of unit length.
        texts: [B, D], of unit length; row i belongs to image i.
        log_scale: scalar, t'.
        bias: scalar, b.
        chunk: texts compared at once.

    Returns:
        The loss, and the share of images whose nearest text is their own; float32
        scalars.
    """
    batch, width = images.shape
    images, texts = images.astype(jnp.float32), texts.astype(jnp.float32)
    chunks = -(-batch // chunk)
    padding = -batch % chunks
    texts = jnp.pad(texts, ((0, padding), (0, 0)))
    owners = jnp.pad(jnp.arange(batch), (0, padding), constant_values=-1)
    rows = jnp.arange(batch)

    @jax.checkpoint
    def step(
        carry: tuple[jax.Array, jax.Array, jax.Array],
        part: tuple[jax.Array, jax.Array],
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        total, highest, nearest = carry
        text, owner = part  # [c, D], [c]
        similarity = images @ text.T  # [B, c]
        logits = jnp.exp(log_scale) * similarity + bias
        sign = jnp.where(rows[:, None] == owner, 1.0, -1.0)
        terms = jnp.where(owner >= 0, jax.nn.log_sigmoid(sign * logits), 0.0)
        similarity = jax.lax.stop_gradient(jnp.where(owner >= 0, similarity, -jnp.inf))
        best = jnp.max(similarity, axis=1)
        nearest = jnp.where(
            best > highest, owner[jnp.argmax(similarity, axis=1)], nearest
        )
        return (total + jnp.sum(terms), jnp.maximum(highest, best), nearest), None

    start = (
        jnp.zeros((), jnp.float32),
        jnp.full(batch, -jnp.inf, jnp.float32),
        jnp.full(batch, -1, rows.dtype),
    )
    parts = (texts.reshape(chunks, -1, width), owners.reshape(chunks, -1))
    (total, _, nearest), _ = jax.lax.scan(step, start, parts)
    return -total / batch, jnp.mean((nearest == rows).astype(jnp.float32))


def _interleave(array: jax.Array, chunks: int) -> jax.Array:
    """[B, T, ...] to [chunks, B, T / chunks, ...], chunk j holding j, j + chunks..."""
    batch, length, *rest = array.shape
    array = array.reshape(batch, length // chunks, chunks, *rest)
    return jnp.moveaxis(array, 2, 0)


def _restore(array: jax.Array) -> jax.Array:
    chunks, batch, length, *rest = array.shape
    return jnp.moveaxis(array, 0, 2).reshape(batch, length * chunks, *rest)


def _logits(
    hidden: jax.Array, kernel: jax.Array, excluded: jax.Array | None
) -> jax.Array:
    logits = jnp.einsum(
        "btd,dv->btv",
        hidden,
        kernel.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    return logits if excluded is None else jnp.where(excluded, _MASKED, logits)


@jax.custom_vjp
def _score(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    excluded: jax.Array | None,
) -> TokenScores:
    """Scores chunks [n, B, c, D] one after the other; its gradient does the same."""

    def step(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, TokenScores]:
        hidden, target = part
        logits = _logits(hidden, kernel, excluded)  # [B, c, V]
        log_partition = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.sum(jnp.where(_is(target, logits), logits, 0.0), axis=-1)
        correct = jnp.argmax(logits, axis=-1) == target
        return None, TokenScores(
            cross_entropy=jnp.where(target >= 0, log_partition - chosen, 0.0),
            log_partition=log_partition,
            correct=correct.astype(jnp.float32),
        )

    return jax.lax.scan(step, None, (hidden, targets))[1]


def _is(target: jax.Array, logits: jax.Array) -> jax.Array:
    # Comparing ids instead of gathering keeps a vocabulary divided over devices so.
    ids = jax.lax.broadcasted_iota(target.dtype, logits.shape, logits.ndim - 1)
    return ids == target[..., None]


def _score_forward(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    excluded: jax.Array | None,
) -> tuple:
    scores = _score(hidden, kernel, targets, excluded)
    return scores, (hidden, kernel, targets, excluded, scores.log_partition)


def _score_backward(saved: tuple, gradients: TokenScores) -> tuple:
    hidden, kernel, targets, excluded, log_partition = saved
    on_chosen = jnp.where(targets >= 0, gradients.cross_entropy, 0.0)
    on_partition = on_chosen + gradients.log_partition

    def step(total: jax.Array, part: tuple) -> tuple[jax.Array, jax.Array]:
        hidden, target, log_partition, on_chosen, on_partition = part
        logits = _logits(hidden, kernel, excluded)
        probability = jnp.exp(logits - log_partition[..., None])
        slope = probability * on_partition[..., None]
        slope -= jnp.where(_is(target, logits), on_chosen[..., None], 0.0)
        if excluded is not None:
            slope = jnp.where(excluded, 0.0, slope)
        # Half-precision products, float32 sums: as in the forward direction.
        slope = slope.astype(hidden.dtype)
        product = partial(jnp.einsum, preferred_element_type=jnp.float32)
        total += product("btd,btv->dv", hidden, slope)
        back = product("btv,dv->btd", slope, kernel.astype(hidden.dtype))
        return total, back.astype(hidden.dtype)

    total, backs = jax.lax.scan(
        step,
        jnp.zeros(kernel.shape, jnp.float32),
        (hidden, targets, log_partition, on_chosen, on_partition),
    )
    return backs, total.astype(kernel.dtype), None, None


_score.defvjp(_score_forward, _score_backward)
