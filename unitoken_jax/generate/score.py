"""How likely a given picture is under a prompt, in nats."""

import functools

import jax
import jax.numpy as jnp

from unitoken_jax.generate.decode import Params, Prompts, call, positions
from unitoken_jax.models.unitoken import UniToken
from unitoken_jax.ops import losses


@functools.partial(jax.jit, static_argnames="model")
def log_likelihood(
    model: UniToken,
    params: Params,
    context: Prompts,
    picture: jax.Array,
    drawn: jax.Array,
) -> jax.Array:
    """Sum the log-probabilities of a picture's codes given what stands before it.

    Args:
        model: The module.
        params: Its parameters.
        context: Prompts up to BOI, [B, P], see `draw.contexts`.
        picture: Tokens after BOI, int32 [B, steps].
        drawn: `ImageLayout.drawn`: at which steps the codes stand, int [n].

    Returns:
        float32 [B]; over the whole vocabulary, so a model that would rather write text
        pays for it.
    """
    tokens = jnp.concatenate([context.tokens, picture], axis=1)  # [B, P + steps]
    valid = jnp.concatenate([context.valid, jnp.ones_like(picture, bool)], axis=1)
    batch = {
        "tokens": tokens,
        "segment_ids": valid.astype(jnp.int32),
        "positions": positions(valid),
    }
    hidden = call(model, params, "__call__", batch)
    places = context.tokens.shape[1] + drawn
    # A token is predicted one place before its own.
    targets = jnp.full_like(tokens, -1).at[:, places - 1].set(tokens[:, places])
    scores = losses.score_tokens(
        hidden,
        params["decoder"]["head"]["kernel"],
        targets,
        chunk=model.config.loss_chunk,
    )
    return -scores.cross_entropy.sum(axis=1)
