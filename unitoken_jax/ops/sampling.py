"""From logits to the next token: guidance, allowed sets, top-k, top-p, temperature.

The order is that of UniToken's released sampler: guidance on raw logits, then the
layout's mask, then top-k (ties at the threshold are kept), then temperature. Top-p,
which that sampler leaves at 1, follows the temperature as in LlamaGen's sampler.
"""

import jax
import jax.numpy as jnp


def guide(
    conditional: jax.Array, unconditional: jax.Array, scale: float | jax.Array
) -> jax.Array:
    """Classifier-free guidance on raw logits: ``u + scale · (c − u)``.

    Args:
        conditional: Logits given the prompt, [..., V].
        unconditional: Logits given no prompt, [..., V].
        scale: 1 leaves the conditional logits, 0 the unconditional ones.

    Returns:
        Guided logits, [..., V].
    """
    return unconditional + scale * (conditional - unconditional)


def restrict(logits: jax.Array, allowed: jax.Array) -> jax.Array:
    """Put every logit outside the boolean mask `allowed` ([..., V]) at −∞."""
    return jnp.where(allowed, logits, -jnp.inf)


def keep_top_k(logits: jax.Array, k: int) -> jax.Array:
    """Put logits below the k-th largest of their row at −∞.

    Args:
        logits: [..., V].
        k: How many to keep; logits equal to the k-th largest all stay. 0, or V and
            above, keeps everything.

    Returns:
        Logits with −∞ at what was dropped, [..., V].
    """
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    threshold = jax.lax.top_k(logits, k)[0][..., -1:]
    return restrict(logits, logits >= threshold)


def keep_top_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """Keep the smallest set of most likely tokens whose probability reaches p.

    Args:
        logits: [..., V].
        p: In (0, 1]. The most likely token always stays, and so do tokens exactly as
            likely as the least likely one kept.

    Returns:
        Logits with −∞ at what was dropped, [..., V].
    """
    descending = -jnp.sort(-logits, axis=-1)
    probability = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # Rounding may put the first token's `before` a little above 0, hence the pad.
    inside = (before < p).at[..., 0].set(True)
    threshold = jnp.min(jnp.where(inside, descending, jnp.inf), axis=-1, keepdims=True)
    return restrict(logits, logits >= threshold)


def sample(
    keys: jax.Array, logits: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Draw one token a row, each row with its own key.

    A row's draw depends on its key and logits only, hence not on what else is in the
    batch.

    Args:
        keys: Typed PRNG keys, [B].
        logits: [B, V]; −∞ is never drawn while the row holds anything finite.
        temperature: Divides the logits; 0 takes the most likely token.

    Returns:
        Token ids, int32 [B].
    """
    temperature = jnp.asarray(temperature, logits.dtype)
    greedy = jnp.argmax(logits, axis=-1)
    warm = logits / jnp.where(temperature > 0, temperature, 1)
    drawn = jax.vmap(jax.random.categorical)(keys, warm)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)


def next_token(
    keys: jax.Array,
    logits: jax.Array,
    allowed: jax.Array,
    *,
    unconditional: jax.Array | None = None,
    guidance: float | jax.Array = 1.0,
    top_k: int = 0,
    top_p: float | jax.Array | None = None,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
    """Draw the next token: guidance, mask, top-k, temperature, top-p, in that order.

    Args:
        keys: Typed PRNG keys, [B].
        logits: Logits given the prompt, float32 [B, V].
        allowed: Which tokens may come, bool [V] or [B, V].
        unconditional: Logits without the prompt, [B, V]; None means no guidance.
        guidance: See `guide`.
        top_k: See `keep_top_k`.
        top_p: See `keep_top_p`; None skips it and its sort.
        temperature: See `sample`.

    Returns:
        Token ids, int32 [B].
    """
    if unconditional is not None:
        logits = guide(logits, unconditional, guidance)
    logits = keep_top_k(restrict(logits, allowed), top_k)
    if top_p is not None:
        positive = jnp.maximum(jnp.asarray(temperature, logits.dtype), 1e-6)
        logits = restrict(logits, keep_top_p(logits / positive, top_p) > -jnp.inf)
    return sample(keys, logits, temperature)
