"""Images of classes by LlamaGen, with KV caches for the trunk and the depth head.

The published sampler (UniTok's fork of arXiv 2406.06525): the guided and the unguided
stream stand on the batch axis; with an interval, guidance ends after so many tokens
behind the first.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.classes import class_names
from data_pipelines.prompts import ClassPrompts
from data_pipelines.storage.code_files import find_code_files
from unitoken_jax.config import UserError
from unitoken_jax.generate.sampler import Sampler, Trained
from unitoken_jax.generate.samplers.depth_codes import draw_codes
from unitoken_jax.generate.sampling import SamplingParams, image_keys
from unitoken_jax.models.llamagen import LlamaGen
from unitoken_jax.models.system import Params, call


@functools.partial(jax.jit, static_argnames="model")
def draw(
    model: LlamaGen,
    params: Params,
    labels: jax.Array,
    seeds: jax.Array,
    sampling: SamplingParams,
) -> jax.Array:
    """Draw an image of each class.

    Args:
        model: The module.
        params: Its parameters.
        labels: Classes, int32 [B].
        seeds: One an image, uint32 [B]; class and seed decide the image.
        sampling: How to draw.

    Returns:
        Codes int32 [B, L, K].
    """
    count, keys = len(labels), image_keys(seeds)
    if sampling.is_guided:
        none = jnp.full_like(labels, model.config.classes)
        labels = jnp.concatenate([labels, none])

    def step(carry: tuple, place: jax.Array) -> tuple:
        x, cache = carry
        state, cache = call(model, params, "decode", x, cache)
        codes = draw_codes(model, params, state, keys, sampling, place=place)
        x = call(model, params, "embed_codes", codes[:, None]).astype(x.dtype)
        return (x, cache), codes[:count]

    start = call(model, params, "embed_class", labels), model.init_cache(len(labels))
    _, codes = jax.lax.scan(step, start, jnp.arange(model.config.tokens))
    return jnp.swapaxes(codes, 0, 1)  # [L, B, K] → [B, L, K]


@functools.partial(jax.jit, static_argnames="model")
def log_likelihood(
    model: LlamaGen, params: Params, labels: jax.Array, codes: jax.Array
) -> jax.Array:
    """Sum the log-probabilities of images' codes given their classes.

    Args:
        model: The module.
        params: Its parameters.
        labels: Classes, int32 [B].
        codes: int32 [B, L, K].

    Returns:
        float32 [B], nats.
    """
    states = call(model, params, "__call__", labels, codes)
    scores = call(model, params, "score", states, codes)
    return -scores.cross_entropy.sum((1, 2))


@dataclasses.dataclass(frozen=True)
class LlamaGenSampler(Sampler):
    """A LlamaGen and its tokenizer: draws classes by name or number."""

    model: LlamaGen
    prompts: ClassPrompts

    unread: ClassVar = ("unconditional", "lead", "answer_limit")

    @classmethod
    def build_prompts(
        cls, model: Trained, tokenizer: Trained, data_dir: Path
    ) -> ClassPrompts:
        """Return what finds the classes of a data set, or of published code files."""
        numbered = find_code_files(data_dir) is not None
        return ClassPrompts(
            None if numbered else class_names(data_dir),
            model.system.config.classes,
            model.data,
            tokenizer.system.data.pixels_per_code,
        )

    def check(self, sampling: SamplingParams) -> None:
        """Refuse guidance of a model that was trained without.

        Raises:
            UserError: It was.
        """
        if sampling.is_guided and not self.model.config.null_class:
            raise UserError(
                f"guidance {sampling.guidance:g} needs a model that has learnt "
                "pictures of no class (null_class); this one has not: set guidance "
                "to 1."
            )

    def context_length(self, request: np.ndarray) -> int:
        """Return 1: a class is one token."""
        return len(request)

    def draw_codes(
        self,
        requests: Sequence[np.ndarray],
        seeds: np.ndarray,
        sampling: SamplingParams,
    ) -> jax.Array:
        """Draw codes [B, h, w, K] of classes [1] each."""
        labels = np.concatenate(requests)
        codes = draw(self.model, self.params, labels, seeds, sampling)
        # [B, h · w, K] → [B, h, w, K]
        return codes.reshape(len(requests), *self.prompts.grid, -1)

    def score_codes(
        self, requests: Sequence[np.ndarray], codes: np.ndarray
    ) -> jax.Array:
        """Return log-likelihoods [B] of codes [B, h, w, K]."""
        flat = codes.reshape(len(codes), -1, codes.shape[-1])  # [B, h · w, K]
        labels = np.concatenate(requests)
        return log_likelihood(self.model, self.params, labels, flat)
