"""UniTok's LLM with its tokenizer: pictures from prompts, answers from pictures."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np

from unitoken_jax.generate import liquid
from unitoken_jax.generate.assistant import Answerer, Asker, View
from unitoken_jax.generate.batches import Progress, alike, seed_numbers
from unitoken_jax.generate.decode import Prompts, bucket
from unitoken_jax.models.image_tokenizer import decode_codes
from unitoken_jax.models.unitok_mllm import UniTokMllm


class LiquidComposer(Asker, Protocol):
    """The rules of the training data."""

    @property
    def unconditional(self) -> np.ndarray:
        """Ids that stand in a prompt's place for guidance, BOS to BOI."""
        ...


@dataclasses.dataclass(frozen=True)
class LiquidAssistant(Answerer):
    """A UniTok MLLM and its tokenizer; its methods are those of `Assistant`."""

    model: UniTokMllm
    composer: LiquidComposer

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Draw a picture for each prompt, see `Assistant.draw`."""
        config, grid = self.config, self.composer.grid
        rows = [self.composer.request(prompt) for prompt in prompts]
        numbers = seed_numbers(seeds)
        guided = config.guidance != 1

        def run(chosen: np.ndarray) -> jax.Array:
            codes = liquid.draw(
                self.model,
                self.params,
                self._context([rows[i] for i in chosen], guided),
                numbers[chosen],
                size=grid[0] * grid[1],
                guidance=config.guidance if guided else None,
                top_k=config.top_k,
                top_p=None if config.top_p == 1 else config.top_p,
                temperature=config.temperature,
            )
            shaped = codes.reshape(len(chosen), *grid, -1)
            return decode_codes(self.tokenizer, self.tokenizer_params, shaped)

        return self.batched(run, alike([self._length(row) for row in rows]), progress)

    def score(
        self,
        prompts: Sequence[str],
        codes: np.ndarray,
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Log-likelihood of pictures given prompts, in nats, [N].

        Args:
            prompts: One for each picture.
            codes: The pictures, int [N, rows, columns, K].
            progress: See `draw`.
        """
        rows = [self.composer.request(prompt) for prompt in prompts]
        flat = codes.reshape(len(codes), -1, codes.shape[-1])  # [N, S, K]

        def run(chosen: np.ndarray) -> jax.Array:
            context = self._context([rows[i] for i in chosen], guided=False)
            return liquid.log_likelihood(self.model, self.params, context, flat[chosen])

        return self.batched(run, alike([self._length(row) for row in rows]), progress)

    def pictures(
        self, views: Sequence[View], codes: np.ndarray
    ) -> Sequence[np.ndarray]:
        """The codes themselves, int32 [1, S, K] each."""
        del views
        return list(codes.reshape(len(codes), 1, -1, codes.shape[-1]))

    def _length(self, row: np.ndarray) -> int:
        """Padded length of a prompt."""
        known = max(len(row), len(self.composer.unconditional))
        return bucket(known, self.config.length_multiple)

    def _context(self, rows: Sequence[np.ndarray], guided: bool) -> Prompts:
        return liquid.contexts(
            rows,
            self.composer.unconditional if guided else None,
            pad=self.composer.vocabulary.pad,
            length=max(map(self._length, rows)),
        )
