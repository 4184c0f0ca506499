"""Pictures of classes by LlamaGen, with KV caches for the trunk and the depth head.

The published sampler (UniTok's fork of arXiv 2406.06525): the guided and the unguided
stream stand on the batch axis; with an interval, guidance ends after so many tokens
behind the first.
"""

import functools

import jax
import jax.numpy as jnp

from unitoken_jax.generate.codes import Choice, draw_codes
from unitoken_jax.generate.decode import Params, call
from unitoken_jax.models.llamagen import LlamaGen


@functools.partial(jax.jit, static_argnames=("model", "top_k", "interval"))
def draw(
    model: LlamaGen,
    params: Params,
    labels: jax.Array,
    seeds: jax.Array,
    *,
    guidance: jax.Array | float | None = None,
    interval: int = -1,
    top_k: int = 0,
    top_p: jax.Array | float | None = None,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """Draw a picture of each class.

    Args:
        model: The module.
        params: Its parameters.
        labels: Classes, int32 [B].
        seeds: One a picture, uint32 [B]; class and seed decide the picture.
        guidance: Scale of classifier-free guidance; None runs no second stream.
        interval: Tokens behind the first after which guidance ends are this and one
            more, as `cfg_interval` counts; −1 guides all.
        top_k: How many codes to keep, 0 for all.
        top_p: Probability mass to keep, None for all.
        temperature: 0 is greedy.

    Returns:
        Codes int32 [B, L, K].
    """
    count, codebooks = len(labels), model.config.codebooks
    choice = Choice(top_k, guidance, top_p, temperature)
    keys = jax.vmap(jax.random.key)(seeds)
    if guidance is not None:
        none = jnp.full_like(labels, model.config.classes)
        labels = jnp.concatenate([labels, none])

    def step(carry: tuple, place: jax.Array) -> tuple:
        x, cache = carry
        state, cache = call(model, params, "decode", x, cache)

        def choose(logits: jax.Array, depth: jax.Array) -> jax.Array:
            here = jax.vmap(jax.random.fold_in, (0, None))(
                keys, place * codebooks + depth
            )
            return choice.codes(here, logits, is_guided(place, interval))

        codes = draw_codes(model, params, state, choose)
        x = call(model, params, "embed_codes", codes[:, None]).astype(x.dtype)
        return (x, cache), codes[:count]

    start = call(model, params, "embed_class", labels), model.init_cache(len(labels))
    _, codes = jax.lax.scan(step, start, jnp.arange(model.config.tokens))
    return jnp.swapaxes(codes, 0, 1)  # [B, L, K]


def is_guided(place: jax.Array | int, interval: int) -> jax.Array:
    """Whether guidance holds for the token at a place, counted from 0.

    The published `cfg_interval` counts the steps after the first token, which is always
    guided; −1 is no limit.
    """
    if interval < 0:
        return jnp.ones_like(place, bool)
    return jnp.asarray(place) - 1 <= interval


@functools.partial(jax.jit, static_argnames="model")
def log_likelihood(
    model: LlamaGen, params: Params, labels: jax.Array, codes: jax.Array
) -> jax.Array:
    """Sum the log-probabilities of pictures' codes given their classes.

    Args:
        model: The module.
        params: Its parameters.
        labels: Classes, int32 [B].
        codes: int32 [B, L, K].

    Returns:
        float32 [B], nats.
    """
    states = call(model, params, "__call__", labels, codes)
    scores = call(model, params, "score", states, codes)
    return -scores.cross_entropy.sum((1, 2))
