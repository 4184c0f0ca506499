"""Images from prompts by UniToken: classifier-free guidance over one cache, one scan.

The conditional and the unconditional stream stand on the batch axis of one KV cache and
are fed the same tokens, forced ones included. Layout and sampling order follow
UniToken's released sampler; the unconditional context is chosen by name.
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
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.unitoken.prompts import UniTokenPrompts
from unitoken_jax.config import UserError
from unitoken_jax.generate.batches import bucket
from unitoken_jax.generate.config import Unconditional
from unitoken_jax.generate.decode import (
    Prompts,
    advance,
    pad_left,
    positions,
    prefill,
)
from unitoken_jax.generate.layout import ImageLayout, image_layout
from unitoken_jax.generate.sampler import ChatSampler, SpecialIds, Trained
from unitoken_jax.generate.sampling import SamplingParams, fold, image_keys
from unitoken_jax.models.system import Params, call
from unitoken_jax.models.unitoken import UniToken
from unitoken_jax.ops.losses import TokenScores


def contexts(
    prompts: Sequence[np.ndarray],
    vocabulary: ChameleonVocabulary,
    *,
    length: int,
    unconditional: Unconditional | None,
    lead: Sequence[int] = (),
) -> Prompts:
    """Build what stands before an image's first token, for both streams.

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


@functools.partial(jax.jit, static_argnames="model")
def draw(
    model: UniToken,
    params: Params,
    context: Prompts,
    seeds: jax.Array,
    sampling: SamplingParams,
    *,
    forced: jax.Array,
    allowed: jax.Array,
) -> jax.Array:
    """Draw the tokens of one image a prompt.

    Args:
        model: The module.
        params: Its parameters.
        context: From `contexts`; both streams when guidance is on.
        seeds: One an image, uint32 [B]; an image depends on its own seed and prompt
            only.
        sampling: How to draw.
        forced: `ImageLayout.forced`, int32 [steps].
        allowed: `ImageLayout.allowed`, bool [V].

    Returns:
        Tokens after BOI, int32 [B, steps].
    """
    steps, keys = len(forced), image_keys(seeds)
    # The final token, EOI, is never fed.
    state = prefill(model, params, context, None, steps - 1)

    def choose(logits: jax.Array, step: jax.Array, forced: jax.Array) -> jax.Array:
        token = sampling.next_token(fold(keys, step), logits, allowed=allowed)
        return jnp.where(forced >= 0, forced, token)

    def extend(carry: tuple, scheduled: tuple) -> tuple:
        state, token = carry
        state = advance(model, params, state, sampling.to_streams(token))
        token = choose(state.logits, *scheduled)
        return (state, token), token

    first = choose(state.logits, jnp.int32(0), forced[0])
    _, rest = jax.lax.scan(
        extend, (state, first), (jnp.arange(1, steps), forced[1:])
    )  # rest [steps - 1, B]
    return jnp.concatenate([first[:, None], rest.T], axis=1)  # [B, steps]


@functools.partial(jax.jit, static_argnames="model")
def log_likelihood(
    model: UniToken,
    params: Params,
    context: Prompts,
    image: jax.Array,
    drawn: jax.Array,
) -> jax.Array:
    """Sum the log-probabilities of an image's codes given what stands before it.

    Args:
        model: The module.
        params: Its parameters.
        context: Prompts up to BOI, [B, P], see `contexts`.
        image: Tokens after BOI, int32 [B, steps].
        drawn: `ImageLayout.drawn`: at which steps the codes stand, int [n].

    Returns:
        float32 [B]; over the whole vocabulary, so a model that would rather write text
        pays for it.
    """
    tokens = jnp.concatenate([context.tokens, image], axis=1)  # [B, P + steps]
    valid = jnp.concatenate([context.valid, jnp.ones_like(image, bool)], axis=1)
    batch = {
        "tokens": tokens,
        "segment_ids": valid.astype(jnp.int32),
        "positions": positions(valid),
    }
    places = context.tokens.shape[1] + drawn
    # A token is predicted one place before its own.
    targets = jnp.full_like(tokens, -1).at[:, places - 1].set(tokens[:, places])

    def score(module: UniToken) -> TokenScores:
        # Of all ids, also if the model is one that gives codes no probability.
        chunk = module.config.loss_chunk
        return module.decoder.score(module(batch), targets, chunk=chunk)

    return -call(model, params, score).cross_entropy.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class UniTokenSampler(ChatSampler):
    """A UniToken and its tokenizer."""

    model: UniToken
    prompts: UniTokenPrompts

    unread: ClassVar = ("guidance_interval",)

    @classmethod
    def build_prompts(
        cls, model: Trained, tokenizer: Trained, data_dir: Path
    ) -> UniTokenPrompts:
        """Return the rules of the training data."""
        del tokenizer
        vocabulary = ChameleonVocabulary.from_file(data_dir / "tokenizer.json")
        return UniTokenPrompts(vocabulary, model.data)

    @functools.cached_property
    def layout(self) -> ImageLayout:
        """The tokens of a drawn image."""
        prompts = self.prompts
        return image_layout(prompts.vocabulary, *prompts.grid, prompts.sizes)

    @property
    def special(self) -> SpecialIds:
        """The ids that pad prompts and that end answers."""
        return SpecialIds(self.prompts.vocabulary.pad, self.prompts.vocabulary.end)

    def check(self, sampling: SamplingParams) -> None:
        """Refuse a model that is one for understanding only.

        Raises:
            UserError: It is.
        """
        del sampling
        if self.model.config.mask_image_logits:
            raise UserError(
                "a model with mask_image_logits gives image codes no probability and "
                "cannot draw; set it to False in the stage's model."
            )

    def context_length(self, request: np.ndarray) -> int:
        """Return the padded length of a prompt with BOS, end and BOI around it."""
        length = len(request) + 3 + len(self.config.lead)
        return bucket(length, self.config.length_multiple)

    def draw_codes(
        self,
        requests: Sequence[np.ndarray],
        seeds: np.ndarray,
        sampling: SamplingParams,
    ) -> np.ndarray:
        """Draw codes [B, h, w]."""
        mode = self.config.unconditional if sampling.is_guided else None
        tokens = draw(
            self.model,
            self.params,
            self._context(requests, mode),
            seeds,
            sampling,
            forced=self.layout.forced,
            allowed=self.layout.allowed,
        )
        return self.layout.codes(tokens)

    def score_codes(
        self, requests: Sequence[np.ndarray], codes: np.ndarray
    ) -> jax.Array:
        """Return log-likelihoods [B] of codes [B, h, w]."""
        return log_likelihood(
            self.model,
            self.params,
            self._context(requests, None),
            self.layout.tokens(codes),
            self.layout.drawn,
        )

    def shown(
        self, inputs: Sequence[ImageInputs], codes: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Return what the continuous encoder looks at, uint8 [M, h, w, 3] each."""
        del codes
        return [each.tiles for each in inputs]

    def _context(
        self, requests: Sequence[np.ndarray], unconditional: Unconditional | None
    ) -> Prompts:
        return contexts(
            requests,
            self.prompts.vocabulary,
            length=max(map(self.context_length, requests)),
            unconditional=unconditional,
            lead=self.config.lead,
        )
