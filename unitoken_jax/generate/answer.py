"""Greedy answers to questions, a batch at a time, inside one compiled loop.

Greedy decoding until the end-of-turn token, as UniToken's `generate` does; rows that
have ended wait for the others.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.generate.decode import Params, Prompts, advance, call, prefill
from unitoken_jax.models.unitok_mllm import UniTokMllm
from unitoken_jax.models.unitoken import UniToken


@functools.partial(jax.jit, static_argnames=("model", "limit"))
def answer(
    model: UniToken | UniTokMllm,
    params: Params,
    prompts: Prompts,
    pictures: jax.Array | None,
    *,
    end: int | jax.Array,
    limit: int,
) -> jax.Array:
    """Continue each prompt with its most likely tokens.

    Args:
        model: The module.
        params: Its parameters.
        prompts: Prompts padded on the left, ending where the answer begins.
        pictures: What `prompts.slots` point into: pictures for the continuous encoder,
            uint8 [B, I, H, W, 3], or for UniTok's LLM their codes, int32 [B, I, S, K].
            None for prompts without slots.
        end: The token that ends an answer.
        limit: Longest answer in tokens, `end` not counted.

    Returns:
        Answers, int32 [B, limit]; −1 from the end token on.
    """
    features = None
    if pictures is not None:
        features = call(model, params, "embed_images", pictures)
    # The token after the last one of an answer is never fed, hence one less.
    state = prefill(model, params, prompts, features, limit - 1)
    token = jnp.argmax(state.logits, axis=-1).astype(jnp.int32)
    answers = jnp.full((len(token), limit), -1, jnp.int32)

    def record(answers: jax.Array, step: jax.Array, token: jax.Array) -> jax.Array:
        return answers.at[:, step].set(jnp.where(token == end, -1, token))

    def unfinished(carry: tuple) -> jax.Array:
        step, token, _, _ = carry
        return (step < limit) & jnp.any(token != end)

    def extend(carry: tuple) -> tuple:
        step, token, state, answers = carry
        answers = record(answers, step - 1, token)
        state = advance(model, params, state, token)
        following = jnp.argmax(state.logits, axis=-1).astype(jnp.int32)
        # Ended rows repeat their end token: what they compute is not looked at.
        token = jnp.where(token == end, end, following)
        return step + 1, token, state, answers

    step, token, _, answers = jax.lax.while_loop(
        unfinished, extend, (jnp.int32(1), token, state, answers)
    )
    return record(answers, step - 1, token)


def trim(answers: np.ndarray) -> list[np.ndarray]:
    """Cut answers [B, limit] at their end: one array of token ids a row."""
    return [row[: int(np.argmin(np.append(row, -1) >= 0))] for row in answers]
