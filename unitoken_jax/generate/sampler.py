"""A trained model with its tokenizer: images from prompts, answers about images.

Samplers take lists of any length, sort them by length into batches of few sizes and
lengths, so that each is compiled once, and return results in the order they came.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from data_pipelines.prompts import ImageInputs, PromptBuilder
from unitoken_jax.config import UserError
from unitoken_jax.generate import decode
from unitoken_jax.generate.batches import (
    Progress,
    alike,
    bucket,
    run_batched,
    seed_numbers,
)
from unitoken_jax.generate.config import GenerationConfig
from unitoken_jax.generate.sampling import SamplingParams
from unitoken_jax.models.image_tokenizer import (
    ImageTokenizer,
    decode_codes,
    encode_images,
)
from unitoken_jax.models.system import Params, System


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained stage: its model, parameters and data rules."""

    system: System
    params: Params
    data: Any  # one of the configs of data; who reads it knows which

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """The module, of a stage whose model codes images."""
        assert self.system.image_tokenizer is not None
        return self.system.image_tokenizer


def ignore(done: int) -> None:
    """Show no progress."""
    del done


@dataclasses.dataclass(frozen=True)
class Sampler(abc.ABC):
    """A model that draws images of the codes of a tokenizer.

    Attributes:
        model: The model that draws.
        params: Its parameters.
        tokenizer: The image tokenizer.
        tokenizer_params: Its parameters.
        prompts: Turns prompts and questions into what the model takes.
        config: How to draw and answer.
        mesh: The devices to compute on; None is the default one.
        unread: Fields of `GenerationConfig` that the class does not read.
    """

    model: nn.Module
    params: Params
    tokenizer: ImageTokenizer
    tokenizer_params: Params
    prompts: PromptBuilder
    config: GenerationConfig
    mesh: Mesh | None = None

    unread: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def build(
        cls,
        model: Trained,
        tokenizer: Trained,
        data_dir: Path,
        config: GenerationConfig,
        mesh: Mesh,
    ) -> "Sampler":
        """Return the sampler of a trained model.

        Args:
            model: The stage that draws.
            tokenizer: The stage whose codes it draws.
            data_dir: The prepared data set that the model was trained on.
            config: How to draw and answer.
            mesh: Where the parameters are.

        Raises:
            DataError: The data set lacks what prompts need, or does not fit.
        """
        return cls(
            model=model.system.module,
            params=model.params,
            tokenizer=tokenizer.image_tokenizer,
            tokenizer_params=tokenizer.params,
            prompts=cls.build_prompts(model, tokenizer, data_dir),
            config=config,
            mesh=mesh,
        )

    @classmethod
    @abc.abstractmethod
    def build_prompts(
        cls, model: Trained, tokenizer: Trained, data_dir: Path
    ) -> PromptBuilder:
        """Return what makes prompts as training did; arguments as of `build`."""

    @abc.abstractmethod
    def context_length(self, request: np.ndarray) -> int:
        """Return the padded length of what stands before an image's first token."""

    @abc.abstractmethod
    def draw_codes(
        self,
        requests: Sequence[np.ndarray],
        seeds: np.ndarray,
        sampling: SamplingParams,
    ) -> jax.Array | np.ndarray:
        """Draw codes in one compiled batch.

        Args:
            requests: Of `prompts.request`, all of one `context_length`.
            seeds: uint32 [B].
            sampling: How to draw.

        Returns:
            int32 [B, h, w] or [B, h, w, K].
        """

    @abc.abstractmethod
    def score_codes(
        self, requests: Sequence[np.ndarray], codes: np.ndarray
    ) -> jax.Array:
        """Return log-likelihoods of codes in one compiled batch, in nats, [B]."""

    @abc.abstractmethod
    def check(self, sampling: SamplingParams) -> None:
        """Refuse to draw what the model cannot.

        Raises:
            UserError: It cannot draw so; the message says why.
        """

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Code images, uint8 [H, W, 3] each, to int32 [N, h, w] or [N, h, w, K]."""
        return self.batched(
            lambda chosen: encode_images(
                self.tokenizer,
                self.tokenizer_params,
                np.stack([images[i] for i in chosen]),
            ),
            [range(len(images))],
        )

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes, int [N, h, w] or [N, h, w, K], to uint8 [N, H, W, 3]."""
        return self.batched(
            lambda chosen: decode_codes(
                self.tokenizer, self.tokenizer_params, codes[chosen]
            ),
            [range(len(codes))],
        )

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        progress: Progress = ignore,
        *,
        sampling: SamplingParams | None = None,
    ) -> np.ndarray:
        """Draw an image for each prompt.

        Args:
            prompts: What to draw.
            seeds: One for each image; prompt and seed decide the image, whatever else
                is drawn with it.
            progress: Called with the number of images finished since the last call.
            sampling: How to draw; None is as the config says.

        Returns:
            uint8 [N, H, W, 3].

        Raises:
            UserError: The model cannot draw, or not with this guidance.
            PromptError: A prompt is none for the model.
        """
        chosen_sampling = self.config.sampling if sampling is None else sampling
        self.check(chosen_sampling)
        requests = [self.prompts.request(prompt) for prompt in prompts]
        numbers = seed_numbers(seeds)

        def run(chosen: np.ndarray) -> jax.Array:
            some = [requests[i] for i in chosen]
            codes = self.draw_codes(some, numbers[chosen], chosen_sampling)
            return decode_codes(self.tokenizer, self.tokenizer_params, codes)

        return self.batched(run, alike(map(self.context_length, requests)), progress)

    def score(
        self,
        prompts: Sequence[str],
        codes: np.ndarray,
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Return the log-likelihood of images given prompts, in nats, [N].

        Args:
            prompts: One for each image.
            codes: The images, int [N, h, w] or [N, h, w, K].
            progress: See `draw`.
        """
        requests = [self.prompts.request(prompt) for prompt in prompts]

        def run(chosen: np.ndarray) -> jax.Array:
            return self.score_codes([requests[i] for i in chosen], codes[chosen])

        return self.batched(run, alike(map(self.context_length, requests)), progress)

    def answer(
        self,
        inputs: Sequence[ImageInputs],
        questions: Sequence[str],
        progress: Progress = ignore,
    ) -> list[str]:
        """Answer questions about images, if the model can: see `ChatSampler`.

        Raises:
            UserError: It cannot.
        """
        raise UserError(f"{self._name()} draws images and answers no questions.")

    def score_answers(
        self,
        inputs: Sequence[ImageInputs],
        questions: Sequence[str],
        answers: Sequence[str],
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Score answers to questions, if the model can: see `ChatSampler`.

        Raises:
            UserError: It cannot.
        """
        raise UserError(f"{self._name()} draws images and scores no answers.")

    def _name(self) -> str:
        """Return what the model is called, for messages."""
        return type(self.model).__name__

    def batched(
        self,
        run: Callable[[np.ndarray], jax.Array | np.ndarray],
        groups: Sequence[Sequence[int]],
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Run over groups of indices, see `run_batched`."""
        return run_batched(run, groups, self.config.batch, self.mesh, progress)


@dataclasses.dataclass(frozen=True)
class ChatSampler(Sampler):
    """A sampler that answers questions about images, whatever it sees of them."""

    model: decode.LanguageModel

    @property
    @abc.abstractmethod
    def special(self) -> "SpecialIds":
        """The ids that pad prompts and that end answers."""

    @abc.abstractmethod
    def shown(
        self, inputs: Sequence[ImageInputs], codes: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Return what the model sees of images, one array each; codes are given."""

    def answer(
        self,
        inputs: Sequence[ImageInputs],
        questions: Sequence[str],
        progress: Progress = ignore,
    ) -> list[str]:
        """Answer a question about each image, greedily.

        Args:
            inputs: The images, of `prompts.view`.
            questions: One for each image.
            progress: Called with the number of questions done since the last call.
        """
        rows, images = self._ask(inputs, questions)
        lengths = [self._padded(len(tokens)) for tokens, _ in rows]

        def run(chosen: np.ndarray) -> jax.Array:
            prompts = decode.pad_left(
                [rows[i][0] for i in chosen],
                [rows[i][1] for i in chosen],
                pad=self.special.pad,
                length=lengths[chosen[0]],
            )
            return decode.answer(
                self.model,
                self.params,
                prompts,
                _stack_seen(prompts, [images[i] for i in chosen]),
                end=self.special.end,
                limit=self.config.answer_limit,
            )

        ids = self.batched(run, _groups(lengths, images), progress)
        return [self.prompts.text(row) for row in decode.trim(ids)]

    def score_answers(
        self,
        inputs: Sequence[ImageInputs],
        questions: Sequence[str],
        answers: Sequence[str],
        progress: Progress = ignore,
    ) -> np.ndarray:
        """Return the log-likelihood of answers, their ends included, in nats, [N].

        Args:
            inputs: The images, of `prompts.view`.
            questions: One for each image.
            answers: One for each question.
            progress: See `answer`.
        """
        rows, images = self._ask(inputs, questions)
        replies = [self.prompts.reply(text) for text in answers]
        lengths = [
            self._padded(len(tokens) + len(reply))
            for (tokens, _), reply in zip(rows, replies, strict=True)
        ]

        def run(chosen: np.ndarray) -> jax.Array:
            prompts, targets = decode.with_answers(
                [rows[i] for i in chosen],
                [replies[i] for i in chosen],
                pad=self.special.pad,
                length=lengths[chosen[0]],
            )
            seen = _stack_seen(prompts, [images[i] for i in chosen])
            return decode.answer_log_likelihood(
                self.model, self.params, prompts, targets, seen
            )

        return self.batched(run, _groups(lengths, images), progress)

    def _ask(
        self, inputs: Sequence[ImageInputs], questions: Sequence[str]
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], Sequence[np.ndarray]]:
        """Return what stands before each answer, and what is seen of its image."""
        codes = self.encode([each.whole for each in inputs])
        rows = [
            self.prompts.question(grid, each.size, question)
            for grid, each, question in zip(codes, inputs, questions, strict=True)
        ]
        return rows, self.shown(inputs, codes)

    def _padded(self, tokens: int) -> int:
        return bucket(tokens, self.config.length_multiple)


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids that batches and answers need: `pad` fills up, `end` ends an answer."""

    pad: int
    end: int


def _groups(lengths: Sequence[int], images: Sequence[np.ndarray]) -> list[list[int]]:
    """Group rows that may share a batch: of one length and one shape of images."""
    shapes = [image.shape for image in images]
    return alike(zip(lengths, shapes, strict=True))


def _stack_seen(
    prompts: decode.Prompts, images: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Stack what feature indices point into; None if none does."""
    if not (prompts.feature_index >= 0).any():
        return None
    return np.stack(images)
