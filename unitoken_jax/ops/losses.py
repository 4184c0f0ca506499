"""Objectives: next-token cross-entropy in chunks, and SigLIP's sigmoid loss.

Neither holds its full matrix of logits: both walk over chunks and compute a chunk's
logits again for the gradient. Cross-entropy's chunks are parts of the vocabulary, so
that the gradient of a part of the kernel is complete when its chunk has been seen, and
no sum of the size of the kernel goes through memory with every chunk.
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


class VocabSharding(NamedTuple):
    """How the head's kernel is divided over devices.

    Attributes:
        num_shards: parts that V is divided into.
        gather: places a chunk of the kernel [D, parts, v] for its products: whole along
            D.
        scatter: places its gradient: divided along D like the kernel.
    """

    num_shards: int
    gather: Callable[[jax.Array], jax.Array]
    scatter: Callable[[jax.Array], jax.Array]


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
    chunk: int = 4096,
    excluded: jax.Array | None = None,
    sharding: VocabSharding | None = None,
) -> TokenScores:
    """Scores targets under softmax(hidden @ kernel) without all logits at once.

    Args:
        hidden: [B, T, D], in the type the product is computed in; sums are float32.
        kernel: [D, V]; cast to hidden's type inside, its gradient is float32.
        targets: int32 [B, T] in [0, V), or -1 for positions without loss.
        chunk: ids whose logits are held at once, for every position.
        excluded: bool [V], True for entries whose logit counts as the lowest
            float, as `mask_image_logits` of the published code does.
        sharding: over devices; None for one.

    Returns:
        Scores of every position, differentiable by hidden and kernel.
    """
    parts = 1 if sharding is None else sharding.num_shards
    chunks = -(-kernel.shape[1] // (parts * chunk))
    padding = -kernel.shape[1] % (parts * chunks)
    ids = jnp.arange(kernel.shape[1] + padding, dtype=targets.dtype)
    columns = _Columns(
        ids=_cut(ids, parts, chunks),
        excluded=None
        if excluded is None
        else _cut(jnp.pad(excluded, (0, padding)), parts, chunks),
        padding=_cut(ids >= kernel.shape[1], parts, chunks) if padding else None,
    )
    kernel = _cut(jnp.pad(kernel, ((0, 0), (0, padding))), parts, chunks)
    return _score(hidden, kernel, targets, columns, sharding)


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
    # [chunks · c, D] → [chunks, c, D], [chunks · c] → [chunks, c]
    parts = (texts.reshape(chunks, -1, width), owners.reshape(chunks, -1))
    (total, _, nearest), _ = jax.lax.scan(step, start, parts)
    return -total / batch, jnp.mean((nearest == rows).astype(jnp.float32))


class _Columns(NamedTuple):
    """The vocabulary in chunks [n, parts, v]: ids, which are excluded, which only pad.

    None where there are no such; the logit of an excluded one is the lowest float, that
    of padding is none.
    """

    ids: jax.Array
    excluded: jax.Array | None
    padding: jax.Array | None


class _Running(NamedTuple):
    """Of the chunks so far, float32 [B, T] each, and the id of the largest logit."""

    largest: jax.Array
    total: jax.Array  # of exp(logit - largest)
    chosen: jax.Array  # logit of the target
    best: jax.Array


def _cut(array: jax.Array, parts: int, chunks: int) -> jax.Array:
    """[..., V] to [chunks, ..., parts, v]; each part is a run of ids, cut in chunks."""
    *rest, size = array.shape
    # [..., V] → [..., parts, chunks, v]
    array = array.reshape(*rest, parts, chunks, size // (parts * chunks))
    # [..., parts, chunks, v] → [chunks, ..., parts, v]
    return jnp.moveaxis(array, -2, 0)


def _logits(hidden: jax.Array, kernel: jax.Array, columns: _Columns) -> jax.Array:
    """Logits float32 [B, T, parts, v] of one chunk."""
    # [B, T, D] · [D, parts, v] → [B, T, parts, v]
    logits = jnp.einsum(
        "btd,dpv->btpv", hidden, kernel, preferred_element_type=jnp.float32
    )
    if columns.excluded is not None:
        logits = jnp.where(columns.excluded, _MASKED, logits)
    if columns.padding is not None:
        logits = jnp.where(columns.padding, -jnp.inf, logits)
    return logits


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _score(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    columns: _Columns,
    sharding: VocabSharding | None,
) -> TokenScores:
    """Scores by kernel chunks [n, D, parts, v]; its gradient walks over the same."""

    def step(so_far: _Running, part: tuple) -> tuple[_Running, None]:
        kernel, columns = part
        logits = _logits(hidden, _cast(kernel, hidden, sharding), columns)
        here = jnp.max(logits, axis=(-2, -1))
        largest = jnp.maximum(so_far.largest, here)
        total = so_far.total * jnp.exp(so_far.largest - largest)
        total += jnp.sum(jnp.exp(logits - largest[..., None, None]), axis=(-2, -1))
        own = columns.ids == targets[..., None, None]
        chosen = so_far.chosen + jnp.sum(jnp.where(own, logits, 0.0), axis=(-2, -1))
        # The least id of the largest logit, as argmax has it.
        candidates = jnp.where(
            logits == here[..., None, None], columns.ids, jnp.iinfo(targets.dtype).max
        )
        best = jnp.min(candidates, axis=(-2, -1))
        earlier = (so_far.largest == here) & (so_far.best < best)
        keeps = (so_far.largest > here) | earlier
        best = jnp.where(keeps, so_far.best, best)
        return _Running(largest, total, chosen, best), None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    start = _Running(zeros - jnp.inf, zeros, zeros, jnp.full_like(targets, -1))
    end, _ = jax.lax.scan(step, start, (kernel, columns))
    log_partition = end.largest + jnp.log(end.total)
    return TokenScores(
        cross_entropy=jnp.where(targets >= 0, log_partition - end.chosen, 0.0),
        log_partition=log_partition,
        correct=(end.best == targets).astype(jnp.float32),
    )


def _cast(
    kernel: jax.Array, hidden: jax.Array, sharding: VocabSharding | None
) -> jax.Array:
    kernel = kernel.astype(hidden.dtype)
    return kernel if sharding is None else sharding.gather(kernel)


def _score_forward(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    columns: _Columns,
    sharding: VocabSharding | None,
) -> tuple:
    scores: TokenScores = _score(hidden, kernel, targets, columns, sharding)
    return scores, (hidden, kernel, targets, columns, scores.log_partition)


def _score_backward(
    sharding: VocabSharding | None, saved: tuple, gradients: TokenScores
) -> tuple:
    hidden, kernel, targets, columns, log_partition = saved
    on_chosen = jnp.where(targets >= 0, gradients.cross_entropy, 0.0)
    on_partition = on_chosen + gradients.log_partition
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def step(back: jax.Array, part: tuple) -> tuple[jax.Array, jax.Array]:
        kernel, columns = part
        cast = _cast(kernel, hidden, sharding)
        logits = _logits(hidden, cast, columns)
        probability = jnp.exp(logits - log_partition[..., None, None])
        slope = probability * on_partition[..., None, None]
        own = columns.ids == targets[..., None, None]
        slope -= jnp.where(own, on_chosen[..., None, None], 0.0)
        if columns.excluded is not None:
            slope = jnp.where(columns.excluded, 0.0, slope)
        # Half-precision products, float32 sums: as in the forward direction.
        slope = slope.astype(hidden.dtype)
        change = product("btd,btpv->dpv", hidden, slope).astype(kernel.dtype)
        if sharding is not None:
            change = sharding.scatter(change)
        return back + product("btpv,dpv->btd", slope, cast), change

    back, change = jax.lax.scan(
        step, jnp.zeros(hidden.shape, jnp.float32), (kernel, columns)
    )
    return back.astype(hidden.dtype), change, None, None


_score.defvjp(_score_forward, _score_backward)
