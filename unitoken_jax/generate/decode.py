"""One token after another with a KV cache: the prompt in one go, then step by step.

Prompts of a batch are padded on the left, so that one write index serves every row and
the next token of each follows its last; positions count a row's own tokens only.
Answers are decoded greedily until the end-of-turn token, as UniToken's `generate` does,
inside one compiled loop; rows that have ended wait for the others.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.models.system import Params, call
from unitoken_jax.models.unitok_mllm import UniTokMllm
from unitoken_jax.models.unitoken import UniToken
from unitoken_jax.ops.losses import TokenScores

LanguageModel = UniToken | UniTokMllm
"""A decoder of text that reads images among its tokens."""


class Prompts(NamedTuple):
    """Prompts padded on the left to one length P.

    Attributes:
        tokens: int32 [B, P].
        valid: bool [B, P]; False on padding.
        feature_index: int32 [B, P]; index into the row's image features, −1 elsewhere.
    """

    tokens: jax.Array
    valid: jax.Array
    feature_index: jax.Array


class State(NamedTuple):
    """What decoding carries from token to token.

    Attributes:
        cache: Keys and values so far.
        logits: Of the next token, float32 [B, V].
        position: Of the next token, int32 [B].
    """

    cache: KVCache
    logits: jax.Array
    position: jax.Array


def pad_left(
    rows: Sequence[np.ndarray],
    feature_index: Sequence[np.ndarray] | None = None,
    *,
    pad: int,
    length: int,
) -> Prompts:
    """Stack prompts of different lengths, padded on the left to `length`.

    Args:
        rows: Token ids of each prompt, int [p].
        feature_index: Of each position, int [p] with −1 where there is no feature; None
            for prompts without image features.
        pad: The id to pad with.
        length: P.

    Raises:
        ValueError: If a prompt is longer than `length`.
    """
    tokens = np.full((len(rows), length), pad, np.int32)
    valid = np.zeros((len(rows), length), bool)
    index = np.full((len(rows), length), -1, np.int32)
    for i, row in enumerate(rows):
        if len(row) > length:
            raise ValueError(f"a prompt of {len(row)} tokens exceeds {length}")
        start = length - len(row)
        tokens[i, start:], valid[i, start:] = row, True
        if feature_index is not None:
            index[i, start:] = feature_index[i]
    return Prompts(*map(jnp.asarray, (tokens, valid, index)))


def positions(valid: jax.Array) -> jax.Array:
    """Count each row's own tokens from 0, int32 [B, P]; padding before them gets 0."""
    return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)


def prefill(
    model: LanguageModel,
    params: Params,
    prompts: Prompts,
    features: jax.Array | None,
    room: int,
) -> State:
    """Run the prompts and leave room for more tokens in the cache.

    Args:
        model: The module.
        params: Its parameters.
        prompts: See `Prompts`.
        features: What `prompts.feature_index` points into, [B, I · S, D].
        room: How many tokens will follow.
    """
    position = positions(prompts.valid)

    def run(module: LanguageModel) -> tuple[jax.Array, KVCache]:
        embeddings = module.embed(prompts.tokens, prompts.feature_index, features)
        hidden, cache = module.decoder.prefill(
            embeddings, position, prompts.valid, room
        )
        return module.logits(hidden[:, -1]), cache

    logits, cache = call(model, params, run)
    return State(cache, logits, position[:, -1] + 1)


def advance(
    model: LanguageModel, params: Params, state: State, tokens: jax.Array
) -> State:
    """Append one token to each row, int32 [B], and compute the next logits."""

    def run(module: LanguageModel) -> tuple[jax.Array, KVCache]:
        embeddings = module.embed(tokens[:, None])  # [B] → [B, 1, D]
        hidden, cache = module.decoder.decode(
            embeddings,
            state.position[:, None],
            jnp.ones((len(tokens), 1), bool),
            state.cache,
        )
        return module.logits(hidden[:, -1]), cache

    logits, cache = call(model, params, run)
    return State(cache, logits, state.position + 1)


@functools.partial(jax.jit, static_argnames=("model", "limit"))
def answer(
    model: LanguageModel,
    params: Params,
    prompts: Prompts,
    images: jax.Array | None,
    *,
    end: int | jax.Array,
    limit: int,
) -> jax.Array:
    """Continue each prompt with its most likely tokens.

    Args:
        model: The module.
        params: Its parameters.
        prompts: Prompts padded on the left, ending where the answer begins.
        images: What `prompts.feature_index` points into: views for the continuous
            encoder, uint8 [B, I, H, W, 3], or for UniTok's LLM codes, int32
            [B, I, S, K]. None for prompts without images.
        end: The token that ends an answer.
        limit: Longest answer in tokens, `end` not counted.

    Returns:
        Answers, int32 [B, limit]; −1 from the end token on.
    """
    features = None
    if images is not None:
        features = call(model, params, "embed_images", images)
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


@functools.partial(jax.jit, static_argnames="model")
def answer_log_likelihood(
    model: LanguageModel,
    params: Params,
    rows: Prompts,
    targets: jax.Array,
    images: jax.Array | None,
) -> jax.Array:
    """Sum the log-probabilities of answers given images and questions.

    Args:
        model: The module.
        params: Its parameters.
        rows: Prompts with their answers, [B, T], from `with_answers`.
        targets: The answers, int32 [B, T], likewise.
        images: What `rows.feature_index` points into, see `answer`.

    Returns:
        float32 [B], nats; over the whole vocabulary, as the loss is.
    """

    def score(module: LanguageModel) -> TokenScores:
        features = None if images is None else module.embed_images(images)
        embeddings = module.embed(rows.tokens, rows.feature_index, features)
        segments = rows.valid.astype(jnp.int32)
        hidden = module.decoder(embeddings, positions(rows.valid), segments)
        return module.score(hidden, targets)

    return -call(model, params, score).cross_entropy.sum(axis=1)


def with_answers(
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
    answers: Sequence[np.ndarray],
    *,
    pad: int,
    length: int,
) -> tuple[Prompts, np.ndarray]:
    """Put an answer behind each prompt and say where it is predicted.

    Args:
        prompts: Tokens and feature indices of each, int [p], see `pad_left`.
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
        [np.append(index, np.full(len(ids), -1)) for (_, index), ids in pairs],
        pad=pad,
        length=length,
    )
    targets = np.full((len(pairs), length), -1, np.int32)
    for target, ids in zip(targets, answers, strict=True):
        target[-1 - len(ids) : -1] = ids
    return rows, targets
