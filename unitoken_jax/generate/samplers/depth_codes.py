"""The codes of one image token, one after the other, by the depth head with its cache.

UniTok's LLM and LlamaGen draw alike (arXiv 2502.20321): guidance holds at every depth,
and both streams go on with the codes that were drawn.
"""

import jax
import jax.numpy as jnp

from unitoken_jax.generate.sampling import SamplingParams, fold
from unitoken_jax.models.llamagen import LlamaGen
from unitoken_jax.models.system import Params, call
from unitoken_jax.models.unitok_mllm import UniTokMllm


def draw_codes(
    model: UniTokMllm | LlamaGen,
    params: Params,
    state: jax.Array,
    keys: jax.Array,
    sampling: SamplingParams,
    *,
    place: jax.Array,
) -> jax.Array:
    """Draw all codes of one token of every image.

    Args:
        model: Has the depth head.
        params: Its parameters.
        state: The decoder's state that predicts the token, [R, D]; R is B, or 2B with
            the unguided stream last.
        keys: Typed PRNG keys of the images [B].
        sampling: How to draw.
        place: int32 scalar, which token of the image it is.

    Returns:
        int32 [R, K]; both streams have the same codes.
    """
    codebooks = model.config.codebooks
    last = codebooks - 1

    def step(carry: tuple, depth: jax.Array) -> tuple:
        x, cache = carry
        logits, cache = call(model, params, "decode_depth", x, cache)
        here = fold(keys, place * codebooks + depth)
        code = sampling.to_streams(sampling.next_token(here, logits, place=place))
        if last:
            # Nothing follows the last code: what stands there is not looked at.
            following = jnp.minimum(depth, last - 1)
            x = call(model, params, "embed_depth", code, following).astype(x.dtype)
        return (x, cache), code

    start = (state, model.init_depth_cache(len(state)))
    _, codes = jax.lax.scan(step, start, jnp.arange(codebooks))  # [K, R]
    return codes.T  # [R, K]
