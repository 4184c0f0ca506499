"""CLIP's symmetric cross-entropy (arXiv 2103.00020) over the whole batch, in chunks.

Nowhere is the matrix of all similarities held: texts pass by in chunks, and a chunk's
similarities are computed again for the gradient. With images divided over devices each
device holds [B / devices, chunk] of them at a time.
"""

import jax
import jax.numpy as jnp


def contrastive_loss(
    images: jax.Array, texts: jax.Array, scale: jax.Array, *, chunk: int = 1024
) -> tuple[jax.Array, jax.Array]:
    """Mean of both directions' -log softmax(scale · x_i · y_j) at i = j.

    Args:
        images: [B, D], of unit length.
        texts: [B, D], of unit length; row i belongs to image i.
        scale: scalar, the factor itself.
        chunk: texts compared at once.

    Returns:
        The loss, and the share of images whose nearest text is their own; float32
        scalars.
    """
    batch, width = images.shape
    images, texts = images.astype(jnp.float32), texts.astype(jnp.float32)
    scale = scale.astype(jnp.float32)
    chunks = -(-batch // chunk)
    padding = -batch % chunks
    owners = jnp.pad(jnp.arange(batch), (0, padding), constant_values=-1)
    padded = jnp.pad(texts, ((0, padding), (0, 0)))
    own = scale * jnp.sum(images * texts, -1)  # [B]

    @jax.checkpoint
    def step(
        carry: tuple[jax.Array, jax.Array, jax.Array],
        part: tuple[jax.Array, jax.Array],
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
        largest, total, nearest = carry  # of every image over the texts so far, [B]
        text, owner = part  # [c, D], [c]
        logits = scale * (images @ text.T)  # [B, c]
        by_text = jnp.sum(jnp.where(owner >= 0, jax.nn.logsumexp(logits, 0), 0.0))
        logits = jnp.where(owner >= 0, logits, -jnp.inf)
        # The maximum only keeps the sum in range; its gradient cancels.
        best = jax.lax.stop_gradient(logits.max(1))
        nearest = jnp.where(best > largest, owner[jnp.argmax(logits, 1)], nearest)
        highest = jnp.maximum(largest, best)
        total = total * jnp.exp(largest - highest)
        total += jnp.sum(jnp.exp(logits - highest[:, None]), 1)
        return (highest, total, nearest), by_text

    start = (
        jnp.full(batch, -jnp.inf, jnp.float32),
        jnp.zeros(batch, jnp.float32),
        jnp.full(batch, -1, owners.dtype),
    )
    # [chunks · c, D] → [chunks, c, D], [chunks · c] → [chunks, c]
    parts = (padded.reshape(chunks, -1, width), owners.reshape(chunks, -1))
    (highest, total, nearest), by_text = jax.lax.scan(step, start, parts)
    by_image = highest + jnp.log(total)
    loss = (jnp.sum(by_image - own) + jnp.sum(by_text) - jnp.sum(own)) / (2 * batch)
    return loss, jnp.mean((nearest == jnp.arange(batch)).astype(jnp.float32))
