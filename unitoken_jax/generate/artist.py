"""LlamaGen with its tokenizer: pictures of classes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from unitoken_jax.config import UserError
from unitoken_jax.generate import class_conditional
from unitoken_jax.generate.assistant import CodeModel, View
from unitoken_jax.generate.batches import Progress, seed_numbers
from unitoken_jax.models.image_tokenizer import decode_codes
from unitoken_jax.models.llamagen import LlamaGen


@dataclasses.dataclass(frozen=True)
class Artist(CodeModel):
    """A LlamaGen and its tokenizer; its methods are those of `Assistant`."""

    model: LlamaGen

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Draw a picture of each class.

        Args:
            prompts: Names or numbers of classes.
            seeds: One for each picture; class and seed decide the picture.
            progress: Called with the number of pictures finished since the last call.

        Returns:
            uint8 [N, H, W, 3].

        Raises:
            UserError: Guidance is asked of a model that was trained without.
        """
        config, grid = self.config, self.composer.grid
        guided = config.guidance != 1
        if guided and not self.model.config.null_class:
            raise UserError(
                f"guidance {config.guidance:g} needs a model that has learnt pictures "
                "of no class (null_class); this one has not: set guidance to 1."
            )
        labels, numbers = self._labels(prompts), seed_numbers(seeds)

        def run(chosen: np.ndarray) -> jax.Array:
            codes = class_conditional.draw(
                self.model,
                self.params,
                labels[chosen],
                numbers[chosen],
                guidance=config.guidance if guided else None,
                interval=config.guidance_interval,
                top_k=config.top_k,
                top_p=None if config.top_p == 1 else config.top_p,
                temperature=config.temperature,
            )
            shaped = codes.reshape(len(chosen), *grid, -1)
            return decode_codes(self.tokenizer, self.tokenizer_params, shaped)

        return self.batched(run, [range(len(prompts))], progress)

    def answer(
        self,
        views: Sequence[View],
        questions: Sequence[str],
        progress: Progress = lambda done: None,
    ) -> list[str]:
        """Refuse: the model knows no words.

        Raises:
            UserError: Always.
        """
        raise UserError("a class-conditional generator answers no questions.")

    def score(
        self,
        prompts: Sequence[str],
        codes: np.ndarray,
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Log-likelihood of pictures given classes, in nats, [N].

        Args:
            prompts: Names or numbers of classes.
            codes: The pictures, int [N, rows, columns, K].
            progress: See `draw`.
        """
        labels = self._labels(prompts)
        flat = codes.reshape(len(codes), -1, codes.shape[-1])  # [N, L, K]

        def run(chosen: np.ndarray) -> jax.Array:
            return class_conditional.log_likelihood(
                self.model, self.params, labels[chosen], flat[chosen]
            )

        return self.batched(run, [range(len(prompts))], progress)

    def score_answers(
        self,
        views: Sequence[View],
        questions: Sequence[str],
        answers: Sequence[str],
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Refuse, as `answer` does.

        Raises:
            UserError: Always.
        """
        raise UserError("a class-conditional generator scores no answers.")

    def _labels(self, prompts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self.composer.request(prompt) for prompt in prompts])
