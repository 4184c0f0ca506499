"""Pictures from prompts by UniTok's LLM: one image token a step, its codes in depth.

Both streams of guidance stand on the batch axis of one KV cache. The code embedder's
causal projection keeps the keys and values of all earlier image tokens, so that the
decoder reads what it read in training. The published cached sampler shows the
projection the newest token alone, which embeds it otherwise than training did.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.generate.codes import Choice, draw_codes
from unitoken_jax.generate.decode import Params, Prompts, call, pad_left, positions
from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.models.unitok_mllm import UniTokMllm


def contexts(
    requests: Sequence[np.ndarray],
    unconditional: np.ndarray | None,
    *,
    pad: int,
    length: int,
) -> Prompts:
    """Stack what stands before the first image token, for both streams.

    Args:
        requests: Ids from BOS to BOI, B of them.
        unconditional: The same for no prompt; None has no second stream.
        pad: Id to pad with.
        length: Length to pad to.

    Returns:
        Prompts, [B, length], or [2·B, length] with the unconditional half last.
    """
    free = [] if unconditional is None else [unconditional] * len(requests)
    return pad_left([*requests, *free], pad=pad, length=length)


@functools.partial(jax.jit, static_argnames=("model", "size", "top_k"))
def draw(
    model: UniTokMllm,
    params: Params,
    context: Prompts,
    seeds: jax.Array,
    *,
    size: int,
    guidance: jax.Array | float | None = None,
    top_k: int = 0,
    top_p: jax.Array | float | None = None,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """Draw the codes of one picture a prompt.

    Args:
        model: The module.
        params: Its parameters.
        context: From `contexts`; both streams when guidance is given.
        seeds: One a picture, uint32 [B]; a picture depends on its own seed and prompt
            only.
        size: Image tokens of a picture, S.
        guidance: Scale of classifier-free guidance; None runs no second stream.
        top_k: How many codes to keep, 0 for all.
        top_p: Probability mass to keep, None for all.
        temperature: 0 is greedy.

    Returns:
        int32 [B, S, K].
    """
    rows = len(context.tokens)
    choice = Choice(top_k, guidance, top_p, temperature)
    keys = jax.vmap(jax.random.key)(seeds)
    position = positions(context.valid)
    alone = jnp.ones((rows, 1), bool)

    def start(module: UniTokMllm) -> tuple[jax.Array, KVCache]:
        embeddings = module.embed(context.tokens)
        hidden, cache = module.decoder.prefill(
            embeddings, position, context.valid, size
        )
        return hidden[:, -1], cache

    def feed(module: UniTokMllm, *inputs: Any) -> tuple[jax.Array, KVCache]:
        return module.decoder.decode(*inputs)

    def step(carry: tuple, place: jax.Array) -> tuple:
        state, cache, seen = carry

        def choose(logits: jax.Array, depth: jax.Array) -> jax.Array:
            at = place * model.config.codebooks + depth
            return choice.codes(
                jax.vmap(jax.random.fold_in, (0, None))(keys, at), logits
            )

        codes = draw_codes(model, params, state, choose)
        x, seen = call(model, params, "embed_drawn", codes[:, None], seen)
        here = position[:, -1:] + 1 + place
        hidden, cache = call(model, params, feed, x, here, alone, cache)
        return (hidden[:, 0], cache, seen), codes[: len(seeds)]

    state, cache = call(model, params, start)
    carry = state, cache, model.init_code_cache(rows, size)
    _, codes = jax.lax.scan(step, carry, jnp.arange(size))  # [S, B, K]
    return jnp.swapaxes(codes, 0, 1)


@functools.partial(jax.jit, static_argnames="model")
def log_likelihood(
    model: UniTokMllm, params: Params, context: Prompts, codes: jax.Array
) -> jax.Array:
    """Sum the log-probabilities of pictures' codes given what stands before them.

    Args:
        model: The module.
        params: Its parameters.
        context: Prompts up to BOI, [B, P], of one stream.
        codes: int32 [B, S, K].

    Returns:
        float32 [B], nats.
    """
    rows, size, _ = codes.shape
    place = jnp.broadcast_to(jnp.arange(size), (rows, size))
    valid = jnp.concatenate([context.valid, jnp.ones_like(place, bool)], axis=1)
    batch = {
        "tokens": jnp.concatenate([context.tokens, jnp.zeros_like(place)], axis=1),
        "feature_index": jnp.concatenate([context.slots, place], axis=1),
        "segment_ids": valid.astype(jnp.int32),
        "positions": positions(valid),
        "codes": codes[:, None],
        # A token is predicted one place before its own.
        "image_target_positions": context.tokens.shape[1] - 1 + place,
    }
    hidden = call(model, params, "__call__", batch)
    scores, _ = call(model, params, "score_drawn", hidden, batch)
    return -scores.cross_entropy.sum((1, 2))
