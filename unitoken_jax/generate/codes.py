"""The codes of one image token, one after the other, by the depth head with its cache.

UniTok's LLM and LlamaGen draw alike (arXiv 2502.20321): guidance holds at every depth,
and both streams go on with the codes that were drawn. The order of sampling is that of
`ops.sampling`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unitoken_jax.generate.decode import Params, call
from unitoken_jax.models.llamagen import LlamaGen
from unitoken_jax.models.unitok_mllm import UniTokMllm
from unitoken_jax.ops import sampling

Choose = Callable[[jax.Array, jax.Array], jax.Array]


class Choice(NamedTuple):
    """How a code is drawn from its logits.

    Attributes:
        top_k: How many codes to keep, 0 for all.
        guidance: Scale of classifier-free guidance; None has no second stream.
        top_p: Probability mass to keep, None for all.
        temperature: 0 is greedy.
    """

    top_k: int = 0
    guidance: jax.Array | float | None = None
    top_p: jax.Array | float | None = None
    temperature: jax.Array | float = 1.0

    def codes(
        self, keys: jax.Array, logits: jax.Array, guided: jax.Array | bool = True
    ) -> jax.Array:
        """Draw a code for every picture.

        Args:
            keys: Typed PRNG keys [B].
            logits: Float32 [B, V], or [2B, V] with the unguided stream last.
            guided: Whether guidance holds here.

        Returns:
            int32 [B], or [2B]: for both streams the same.
        """
        given, both = logits, 1
        if self.guidance is not None:
            given, free = jnp.split(logits, 2)
            moved = sampling.guide(given, free, self.guidance)
            given, both = jnp.where(guided, moved, given), 2
        code = sampling.next_token(
            keys,
            given,
            jnp.ones(given.shape[-1], bool),
            top_k=self.top_k,
            top_p=self.top_p,
            temperature=self.temperature,
        )
        return jnp.concatenate([code] * both)


def draw_codes(
    model: UniTokMllm | LlamaGen, params: Params, state: jax.Array, choose: Choose
) -> jax.Array:
    """Draw all codes of one token of every row.

    Args:
        model: Has the depth head.
        params: Its parameters.
        state: The decoder's state that predicts the token, [R, D].
        choose: (logits float32 [R, V], depth) → codes int32 [R].

    Returns:
        int32 [R, K].
    """
    last = model.config.codebooks - 1

    def step(carry: tuple, depth: jax.Array) -> tuple:
        x, cache = carry
        logits, cache = call(model, params, "decode_depth", x, cache)
        code = choose(logits, depth)
        if last:
            # Nothing follows the last code: what stands there is not looked at.
            at = jnp.minimum(depth, last - 1)
            x = call(model, params, "embed_depth", code, at).astype(x.dtype)
        return (x, cache), code

    start = (state, model.init_depth_cache(len(state)))
    _, codes = jax.lax.scan(step, start, jnp.arange(last + 1))  # [K, R]
    return codes.T
