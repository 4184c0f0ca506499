"""How likely a given picture or answer is after what stands before it, in nats."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.generate.decode import Params, Prompts, call, pad_left, positions
from unitoken_jax.models.unitok_mllm import UniTokMllm
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
    places = context.tokens.shape[1] + drawn
    # A token is predicted one place before its own.
    targets = jnp.full_like(tokens, -1).at[:, places - 1].set(tokens[:, places])

    def score(module: UniToken) -> losses.TokenScores:
        # Of all ids, also if the model is one that gives codes no probability.
        chunk = module.config.loss_chunk
        return module.decoder.score(module(batch), targets, chunk=chunk)

    scores = call(model, params, score)
    return -scores.cross_entropy.sum(axis=1)


@functools.partial(jax.jit, static_argnames="model")
def answer_log_likelihood(
    model: UniToken | UniTokMllm,
    params: Params,
    rows: Prompts,
    targets: jax.Array,
    pictures: jax.Array | None,
) -> jax.Array:
    """Sum the log-probabilities of answers given pictures and questions.

    Args:
        model: The module.
        params: Its parameters.
        rows: Prompts with their answers, [B, T], from `with_answers`.
        targets: The answers, int32 [B, T], likewise.
        pictures: What `rows.slots` point into, see `answer.answer`.

    Returns:
        float32 [B]; over the whole vocabulary, as the loss is.
    """

    def score(module: UniToken | UniTokMllm) -> losses.TokenScores:
        features = None if pictures is None else module.embed_images(pictures)
        embeddings = module.embed(rows.tokens, rows.slots, features)
        segments = rows.valid.astype(jnp.int32)
        hidden = module.decoder(embeddings, positions(rows.valid), segments)
        return module.score(hidden, targets)

    scores = call(model, params, score)
    return -scores.cross_entropy.sum(axis=1)


def with_answers(
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
    answers: Sequence[np.ndarray],
    *,
    pad: int,
    length: int,
) -> tuple[Prompts, np.ndarray]:
    """Put an answer behind each prompt and say where it is predicted.

    Args:
        prompts: Tokens and slots of each, int [p], see `pad_left`.
        answers: Ids of each answer, int [a], a at least 1.
        pad: The id to pad with.
        length: T, to which rows are padded on the left.

    Returns:
        The rows, and targets int32 [B, T]: at every position the id that follows it
        if that is the answer's, else −1.
    """
    pairs = list(zip(prompts, answers, strict=True))
    rows = pad_left(
        [np.concatenate([tokens, ids]) for (tokens, _), ids in pairs],
        [np.append(slots, np.full(len(ids), -1)) for (_, slots), ids in pairs],
        pad=pad,
        length=length,
    )
    targets = np.full((len(pairs), length), -1, np.int32)
    for target, ids in zip(targets, answers, strict=True):
        target[-1 - len(ids) : -1] = ids
    return rows, targets
