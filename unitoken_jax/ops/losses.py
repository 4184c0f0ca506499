"""Objectives: next-token cross-entropy in chunks, and SigLIP's sigmoid loss.

Neither holds its full matrix of logits: both walk over chunks and compute a chunk's
logits again for the gradient.
"""

from collections.abc import Callable
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


class Division(NamedTuple):
    """How the head's inputs are divided over devices.

    Attributes:
        rows: parts that B is divided into.
        positions: parts that T is divided into.
        place_kernel: places the kernel [D, V] for all chunks at once, so that none
            gathers it anew.
        place_sum: places the kernel's gradient while it is summed, [rows, positions,
            D, V]: each part sums its own, and they meet once.
    """

    rows: int
    positions: int
    place_kernel: Callable[[jax.Array], jax.Array]
    place_sum: Callable[[jax.Array], jax.Array]


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
    division: Division | None = None,
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
        division: over devices; None for one.

    Returns:
        Scores of every position, differentiable by hidden and kernel.
    """
    length = targets.shape[1]
    chunks = -(-length // chunk)
    padding = -length % chunks
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)), constant_values=-1)
    scores = _score(
        _interleave(hidden, chunks),
        kernel,
        _interleave(targets, chunks),
        excluded,
        division,
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
        "btd,dv->btv", hidden, kernel, preferred_element_type=jnp.float32
    )
    return logits if excluded is None else jnp.where(excluded, _MASKED, logits)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _score(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    excluded: jax.Array | None,
    division: Division | None,
) -> TokenScores:
    """Scores chunks [n, B, c, D] one after the other; its gradient does the same."""
    kernel = _cast(kernel, hidden, division)

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


def _cast(kernel: jax.Array, hidden: jax.Array, division: Division | None) -> jax.Array:
    kernel = kernel.astype(hidden.dtype)
    return kernel if division is None else division.place_kernel(kernel)


def _is(target: jax.Array, logits: jax.Array) -> jax.Array:
    # Comparing ids instead of gathering keeps a vocabulary divided over devices so.
    ids = jax.lax.broadcasted_iota(target.dtype, logits.shape, logits.ndim - 1)
    return ids == target[..., None]


def _score_forward(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    excluded: jax.Array | None,
    division: Division | None,
) -> tuple:
    scores: TokenScores = _score(hidden, kernel, targets, excluded, division)
    return scores, (hidden, kernel, targets, excluded, scores.log_partition)


def _score_backward(
    division: Division | None, saved: tuple, gradients: TokenScores
) -> tuple:
    hidden, kernel, targets, excluded, log_partition = saved
    cast = _cast(kernel, hidden, division)
    rows, positions = _parts(hidden, division)
    on_chosen = jnp.where(targets >= 0, gradients.cross_entropy, 0.0)
    on_partition = on_chosen + gradients.log_partition

    def step(total: jax.Array, part: tuple) -> tuple[jax.Array, jax.Array]:
        hidden, target, log_partition, on_chosen, on_partition = part
        logits = _logits(hidden, cast, excluded)
        probability = jnp.exp(logits - log_partition[..., None])
        slope = probability * on_partition[..., None]
        slope -= jnp.where(_is(target, logits), on_chosen[..., None], 0.0)
        if excluded is not None:
            slope = jnp.where(excluded, 0.0, slope)
        # Half-precision products, float32 sums: as in the forward direction.
        slope = slope.astype(hidden.dtype)
        product = partial(jnp.einsum, preferred_element_type=jnp.float32)
        inputs, slopes = (_split(each, rows, positions) for each in (hidden, slope))
        total += product("pbqtd,pbqtv->pqdv", inputs, slopes)
        back = product("btv,dv->btd", slope, cast)
        return place(total), back.astype(hidden.dtype)

    def place(total: jax.Array) -> jax.Array:
        return total if division is None else division.place_sum(total)

    total, backs = jax.lax.scan(
        step,
        place(jnp.zeros((rows, positions, *kernel.shape), jnp.float32)),
        (hidden, targets, log_partition, on_chosen, on_partition),
    )
    return backs, jnp.sum(total, (0, 1)).astype(kernel.dtype), None, None


def _parts(hidden: jax.Array, division: Division | None) -> tuple[int, int]:
    """Parts of B and of a chunk whose sums are kept apart."""
    if division is None:
        return 1, 1
    _, batch, length, _ = hidden.shape
    rows, positions = division.rows, division.positions
    return (
        rows if batch % rows == 0 else 1,
        positions if length % positions == 0 else 1,
    )


def _split(array: jax.Array, rows: int, positions: int) -> jax.Array:
    """[B, c, D] to [rows, B / rows, positions, c / positions, D]."""
    batch, length, width = array.shape
    return array.reshape(rows, batch // rows, positions, length // positions, width)


_score.defvjp(_score_forward, _score_backward)
