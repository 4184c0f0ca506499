"""Pictures from prompts: classifier-free guidance over one cache, in one scan.

The conditional and the unconditional stream stand on the batch axis of one KV cache and
are fed the same tokens, forced ones included. Layout and sampling order follow
UniToken's released sampler; the unconditional context is chosen by name.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.generate.decode import Params, Prompts, advance, pad_left, prefill
from unitoken_jax.generate.layout import Vocabulary
from unitoken_jax.models.unitoken import UniToken
from unitoken_jax.ops import sampling

# What the unconditional stream has seen before the picture begins:
#   prompt_dropped  BOS, end of turn, BOI: what training shows when it drops a prompt
#   released        BOI alone, at position 0: what UniToken's published sampler feeds
Unconditional = Literal["prompt_dropped", "released"]


def contexts(
    prompts: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    *,
    length: int,
    unconditional: Unconditional | None,
    lead: Sequence[int] = (),
) -> Prompts:
    """Build what stands before a picture's first token, for both streams.

    Args:
        prompts: Token ids of the prompts' text, B of them.
        vocabulary: Names the special tokens.
        length: Length to pad to.
        unconditional: Context of the second stream, or None for no second stream.
        lead: Tokens between the end of the prompt's turn and BOI; the released
            7B weights expect (16853,).

    Returns:
        Prompts, [B, length], or [2·B, length] with the unconditional half last.
    """
    v = vocabulary
    rows = [np.array([v.bos, *ids, v.end, *lead, v.boi]) for ids in prompts]
    if unconditional == "prompt_dropped":
        rows += [np.array([v.bos, v.end, *lead, v.boi])] * len(prompts)
    elif unconditional == "released":
        rows += [np.array([v.boi])] * len(prompts)
    return pad_left(rows, pad=v.pad, length=length)


@functools.partial(jax.jit, static_argnames=("model", "top_k"))
def draw(
    model: UniToken,
    params: Params,
    context: Prompts,
    seeds: jax.Array,
    *,
    forced: jax.Array,
    allowed: jax.Array,
    guidance: jax.Array | float | None = None,
    top_k: int = 0,
    top_p: jax.Array | float | None = None,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """Draw the tokens of one picture a prompt.

    Args:
        model: The module.
        params: Its parameters.
        context: From `contexts`; both streams when guidance is given.
        seeds: One a picture, uint32 [B]; a picture depends on its own seed and prompt
            only.
        forced: `ImageLayout.forced`, int32 [steps].
        allowed: `ImageLayout.allowed`, bool [V].
        guidance: Scale of classifier-free guidance; None runs no second stream.
        top_k: How many codes to keep, 0 for all.
        top_p: Probability mass to keep, None for all.
        temperature: 0 is greedy.

    Returns:
        Tokens after BOI, int32 [B, steps].
    """
    steps = len(forced)
    keys = jax.vmap(jax.random.key)(seeds)
    # The final token, EOI, is never fed.
    state = prefill(model, params, context, None, steps - 1)

    def choose(logits: jax.Array, step: jax.Array, forced: jax.Array) -> jax.Array:
        given, free = logits, None
        if guidance is not None:
            given, free = jnp.split(logits, 2)
        token = sampling.next_token(
            jax.vmap(jax.random.fold_in, (0, None))(keys, step),
            given,
            allowed,
            unconditional=free,
            guidance=1.0 if guidance is None else guidance,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
        )
        return jnp.where(forced >= 0, forced, token)

    def extend(carry: tuple, at: tuple) -> tuple:
        state, token = carry
        both = token if guidance is None else jnp.concatenate([token, token])
        state = advance(model, params, state, both)
        token = choose(state.logits, *at)
        return (state, token), token

    first = choose(state.logits, jnp.int32(0), forced[0])
    _, rest = jax.lax.scan(
        extend, (state, first), (jnp.arange(1, steps), forced[1:])
    )  # rest [steps - 1, B]
    return jnp.concatenate([first[:, None], rest.T], axis=1)
