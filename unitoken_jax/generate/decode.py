"""One token after another with a KV cache: the prompt in one go, then step by step.

Prompts of a batch are padded on the left, so that one write index serves every row and
the next token of each follows its last; positions count a row's own tokens only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.models.unitok_mllm import UniTokMllm
from unitoken_jax.models.unitoken import UniToken

Params = Mapping[str, Any]


class Prompts(NamedTuple):
    """Prompts padded on the left to one length P.

    Attributes:
        tokens: int32 [B, P].
        valid: bool [B, P]; False on padding.
        slots: int32 [B, P]; index into the row's continuous features, −1 elsewhere.
    """

    tokens: jax.Array
    valid: jax.Array
    slots: jax.Array


class State(NamedTuple):
    """What decoding carries from token to token.

    Attributes:
        cache: Keys and values so far, see `Chameleon.init_cache`.
        logits: Of the next token, float32 [B, V].
        position: Of the next token, int32 [B].
    """

    cache: KVCache
    logits: jax.Array
    position: jax.Array


def call(
    module: nn.Module, params: Params, method: str | Callable[..., Any], *inputs: Any
) -> Any:
    """Call a method of a module, or a function of a bound module, with parameters."""
    return module.apply({"params": params}, *inputs, method=method)


def pad_left(
    rows: Sequence[np.ndarray],
    slots: Sequence[np.ndarray] | None = None,
    *,
    pad: int,
    length: int,
) -> Prompts:
    """Stack prompts of different lengths, padded on the left to `length`.

    Args:
        rows: Token ids of each prompt, int [p].
        slots: Feature index of each position, int [p] with −1 where there is none;
            None for prompts without continuous features.
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
        if slots is not None:
            index[i, start:] = slots[i]
    return Prompts(*map(jnp.asarray, (tokens, valid, index)))


def bucket(length: int, multiple: int) -> int:
    """Round a length up to a multiple, so that few lengths are ever compiled."""
    return -(-length // multiple) * multiple


def positions(valid: jax.Array) -> jax.Array:
    """Count each row's own tokens from 0, int32 [B, P]; padding before them gets 0."""
    return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)


def prefill(
    model: UniToken | UniTokMllm,
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
        features: Continuous features that `prompts.slots` points into, [B, S, D].
        room: How many tokens will follow.
    """
    position = positions(prompts.valid)

    def run(module: UniToken | UniTokMllm) -> tuple[jax.Array, KVCache]:
        embeddings = module.embed(prompts.tokens, prompts.slots, features)
        hidden, cache = module.decoder.prefill(
            embeddings, position, prompts.valid, room
        )
        return module.logits(hidden[:, -1]), cache

    logits, cache = call(model, params, run)
    return State(cache, logits, position[:, -1] + 1)


def advance(
    model: UniToken | UniTokMllm, params: Params, state: State, tokens: jax.Array
) -> State:
    """Append one token to each row, int32 [B], and compute the next logits."""

    def run(module: UniToken | UniTokMllm) -> tuple[jax.Array, KVCache]:
        embeddings = module.embed(tokens[:, None])
        hidden, cache = module.decoder.decode(
            embeddings,
            state.position[:, None],
            jnp.ones((len(tokens), 1), bool),
            state.cache,
        )
        return module.logits(hidden[:, -1]), cache

    logits, cache = call(model, params, run)
    return State(cache, logits, state.position + 1)
