"""Images from prompts by UniTok's LLM: one image token a step, its codes in depth.

Both streams of guidance stand on the batch axis of one KV cache. The code embedder's
causal projection keeps the keys and values of all earlier image tokens, so that the
decoder reads what it read in training. The published cached sampler shows the
projection the newest token alone, which embeds it otherwise than training did.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.prompts import ImageInputs
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm.prompts import MLLMPrompts
from unitoken_jax.generate.batches import bucket
from unitoken_jax.generate.decode import Prompts, pad_left, positions
from unitoken_jax.generate.sampler import ChatSampler, SpecialIds, Trained
from unitoken_jax.generate.samplers.depth_codes import draw_codes
from unitoken_jax.generate.sampling import SamplingParams, image_keys
from unitoken_jax.layers.kv_cache import KVCache
from unitoken_jax.models.system import Params, call
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


@functools.partial(jax.jit, static_argnames=("model", "size"))
def draw(
    model: UniTokMllm,
    params: Params,
    context: Prompts,
    seeds: jax.Array,
    sampling: SamplingParams,
    *,
    size: int,
) -> jax.Array:
    """Draw the codes of one image a prompt.

    Args:
        model: The module.
        params: Its parameters.
        context: From `contexts`; both streams when guidance is on.
        seeds: One an image, uint32 [B]; an image depends on its own seed and prompt
            only.
        sampling: How to draw.
        size: Image tokens of an image, S.

    Returns:
        int32 [B, S, K].
    """
    rows, keys = len(context.tokens), image_keys(seeds)
    position = positions(context.valid)
    alone = jnp.ones((rows, 1), bool)

    def start(module: UniTokMllm) -> tuple[jax.Array, KVCache]:
        embeddings = module.embed(context.tokens)
        hidden, cache = module.decoder.prefill(
            embeddings, position, context.valid, size
        )
        return hidden[:, -1], cache

    def feed(
        module: UniTokMllm, x: jax.Array, here: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        return module.decoder.decode(x, here, alone, cache)

    def step(carry: tuple, place: jax.Array) -> tuple:
        state, cache, seen = carry
        codes = draw_codes(model, params, state, keys, sampling, place=place)
        x, seen = call(model, params, "embed_drawn", codes[:, None], seen)
        here = position[:, -1:] + 1 + place
        hidden, cache = call(model, params, feed, x, here, cache)
        return (hidden[:, 0], cache, seen), codes[: len(seeds)]

    state, cache = call(model, params, start)
    carry = state, cache, model.init_code_cache(rows, size)
    _, codes = jax.lax.scan(step, carry, jnp.arange(size))
    return jnp.swapaxes(codes, 0, 1)  # [S, B, K] → [B, S, K]


@functools.partial(jax.jit, static_argnames="model")
def log_likelihood(
    model: UniTokMllm, params: Params, context: Prompts, codes: jax.Array
) -> jax.Array:
    """Sum the log-probabilities of images' codes given what stands before them.

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
        "feature_index": jnp.concatenate([context.feature_index, place], axis=1),
        "segment_ids": valid.astype(jnp.int32),
        "positions": positions(valid),
        "codes": codes[:, None],
        # A token is predicted one place before its own.
        "image_target_positions": context.tokens.shape[1] - 1 + place,
    }
    hidden = call(model, params, "__call__", batch)
    scores, _ = call(model, params, "score_drawn", hidden, batch)
    return -scores.cross_entropy.sum((1, 2))


@dataclasses.dataclass(frozen=True)
class UniTokMllmSampler(ChatSampler):
    """A UniTok MLLM and its tokenizer."""

    model: UniTokMllm
    prompts: MLLMPrompts

    unread: ClassVar = ("guidance_interval", "unconditional", "lead")

    @classmethod
    def build_prompts(
        cls, model: Trained, tokenizer: Trained, data_dir: Path
    ) -> MLLMPrompts:
        """Return the rules of the training data."""
        vocabulary = read_vocabulary(data_dir / "tokenizer.json")
        return MLLMPrompts(
            vocabulary, model.data, tokenizer.system.data.pixels_per_code
        )

    @property
    def special(self) -> SpecialIds:
        """The ids that pad prompts and that end answers."""
        return SpecialIds(self.prompts.vocabulary.pad, self.prompts.vocabulary.end)

    def check(self, sampling: SamplingParams) -> None:
        """Refuse nothing: it draws with and without guidance."""
        del sampling

    def context_length(self, request: np.ndarray) -> int:
        """Return the padded length of a prompt, or of the unconditional one."""
        known = max(len(request), len(self.prompts.unconditional))
        return bucket(known, self.config.length_multiple)

    def draw_codes(
        self,
        requests: Sequence[np.ndarray],
        seeds: np.ndarray,
        sampling: SamplingParams,
    ) -> jax.Array:
        """Draw codes [B, h, w, K]."""
        rows, columns = self.prompts.grid
        context = self._context(requests, sampling)
        size = rows * columns
        codes = draw(self.model, self.params, context, seeds, sampling, size=size)
        # [B, h · w, K] → [B, h, w, K]
        return codes.reshape(len(requests), rows, columns, -1)

    def score_codes(
        self, requests: Sequence[np.ndarray], codes: np.ndarray
    ) -> jax.Array:
        """Return log-likelihoods [B] of codes [B, h, w, K]."""
        flat = codes.reshape(len(codes), -1, codes.shape[-1])  # [B, h · w, K]
        context = self._context(requests, None)
        return log_likelihood(self.model, self.params, context, flat)

    def shown(
        self, inputs: Sequence[ImageInputs], codes: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Return the codes themselves, int32 [1, S, K] each."""
        del inputs
        # [N, h, w, K] → [N, 1, h · w, K]
        return list(codes.reshape(len(codes), 1, -1, codes.shape[-1]))

    def _context(
        self, requests: Sequence[np.ndarray], sampling: SamplingParams | None
    ) -> Prompts:
        guided = sampling is not None and sampling.is_guided
        return contexts(
            requests,
            self.prompts.unconditional if guided else None,
            pad=self.special.pad,
            length=max(map(self.context_length, requests)),
        )
