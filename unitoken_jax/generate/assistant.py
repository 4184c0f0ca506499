"""A trained model with its tokenizer: pictures from prompts, answers from pictures.

Takes lists of any length, sorts them by length into batches of few sizes and
lengths, so that each is compiled once, and returns results in the order they came.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from PIL import Image

from unitoken_jax.config import UserError
from unitoken_jax.generate import answer, draw
from unitoken_jax.generate.batches import Progress, alike, run_batched, seed_numbers
from unitoken_jax.generate.decode import Params, Prompts, bucket, pad_left
from unitoken_jax.generate.layout import ImageLayout, Vocabulary, image_layout
from unitoken_jax.generate.score import (
    answer_log_likelihood,
    log_likelihood,
    with_answers,
)
from unitoken_jax.models.image_tokenizer import (
    ImageTokenizer,
    decode_codes,
    encode_images,
)
from unitoken_jax.models.unitok_mllm import UniTokMllm
from unitoken_jax.models.unitoken import UniToken
from unitoken_jax.parallel.mesh import MeshConfig

_GREATEST = 1e6


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How a trained model draws and answers.

    Attributes:
        model: The training stage that speaks and draws; "" is the last one that trained
            a UniToken, a UniTok MLLM or a LlamaGen.
        tokenizer: The training stage of the picture tokenizer; "" is the one whose
            codes the model was trained on.
        guidance: Scale of classifier-free guidance; 1 is none.
        guidance_interval: Of a LlamaGen: after how many tokens behind the first
            guidance ends, see `class_conditional.is_guided`; −1 is never.
        top_k: How many codes to draw from, 0 for all.
        top_p: Probability mass to draw from.
        temperature: Of drawing; 0 takes the most likely code.
        unconditional: The context guidance leads away from, see `draw.Unconditional`.
        lead: Token ids between the prompt's turn and the picture.
        answer_limit: Longest answer in tokens.
        batch: At most how many pictures or questions at once.
        length_multiple: Prompts are padded to a multiple of this.
        mesh: How the devices share the work; by default each has whole parameters and
            its part of a batch.
    """

    model: str = ""
    tokenizer: str = ""
    guidance: float = 3.0
    guidance_interval: int = -1
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    unconditional: draw.Unconditional = "prompt_dropped"
    lead: tuple[int, ...] = ()
    answer_limit: int = 32
    batch: int = 16
    length_multiple: int = 64
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], found {self.top_p}")
        # Beyond these, float32 logits overflow and one code is drawn everywhere.
        if not abs(self.guidance) <= _GREATEST:
            raise ValueError(
                f"guidance must be a number of at most {_GREATEST:g}, found "
                f"{self.guidance}"
            )
        if self.temperature != 0 and not 1 / _GREATEST <= self.temperature <= _GREATEST:
            raise ValueError(
                f"temperature must be 0, or lie between {1 / _GREATEST:g} and "
                f"{_GREATEST:g}, found {self.temperature}"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, found {self.top_k}")
        if self.guidance_interval < -1:
            raise ValueError(
                f"guidance_interval must be −1 or more, found {self.guidance_interval}"
            )
        if min(self.lead, default=0) < 0:
            raise ValueError(f"lead holds ids of tokens, found {self.lead}")
        if min(self.answer_limit, self.batch, self.length_multiple) < 1:
            raise ValueError(
                "answer_limit, batch and length_multiple must be at least 1"
            )


class View(Protocol):
    """A picture as the networks see it."""

    @property
    def whole(self) -> np.ndarray:
        """For the tokenizer, uint8 [H, W, 3]."""
        ...

    @property
    def tiles(self) -> np.ndarray:
        """For the continuous encoder, uint8 [M, h, w, 3]."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture the tiles were cut from."""
        ...


class Prompter(Protocol):
    """How prompts and pictures become what a model takes."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a drawn picture's codes."""
        ...

    def view(self, picture: Image.Image | np.ndarray, /) -> View:
        """Prepare a picture, uint8 [H, W, 3] or Pillow's."""
        ...

    def request(self, text: str, /) -> np.ndarray:
        """Ids of the message that asks for a picture, int32 [p]."""
        ...

    def question(
        self, codes: np.ndarray, size: tuple[int, int], text: str, /
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and slots, int32 [p], of a picture and a question about it."""
        ...

    def reply(self, text: str, /) -> np.ndarray:
        """Ids of an answer and of what ends it, int32 [a]."""
        ...

    def text(self, ids: np.ndarray, /) -> str:
        """The text of an answer."""
        ...


class Names(Protocol):
    """Ids that batches and answers need."""

    @property
    def pad(self) -> int:
        """Padding."""
        ...

    @property
    def end(self) -> int:
        """Ends an answer."""
        ...


class Asker(Prompter, Protocol):
    """Prepares what is answered in words."""

    @property
    def vocabulary(self) -> Names:
        """Names the special tokens."""
        ...


class Composer(Prompter, Protocol):
    """The rules of UniToken's training data."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Names the special tokens and the codes."""
        ...

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Height and width of a drawn picture in grids of 32 pixels, or None."""
        ...


class Speaker(Protocol):
    """A trained model that draws and, but for LlamaGen, answers."""

    @property
    def config(self) -> GenerationConfig:
        """How it draws and answers."""
        ...

    @property
    def composer(self) -> Prompter:
        """Prepares prompts and pictures."""
        ...

    def encode(self, pictures: Sequence[np.ndarray], /) -> np.ndarray:
        """Codes of pictures, uint8 [H, W, 3] each."""
        ...

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], progress: Progress = ...
    ) -> np.ndarray:
        """A picture for each prompt and seed, uint8 [N, H, W, 3]."""
        ...

    def answer(
        self,
        views: Sequence[View],
        questions: Sequence[str],
        progress: Progress = ...,
    ) -> list[str]:
        """An answer to a question about each picture."""
        ...

    def score(
        self, prompts: Sequence[str], codes: np.ndarray, progress: Progress = ...
    ) -> np.ndarray:
        """Log-likelihood of pictures' codes given prompts, in nats, [N]."""
        ...

    def score_answers(
        self,
        views: Sequence[View],
        questions: Sequence[str],
        answers: Sequence[str],
        progress: Progress = ...,
    ) -> np.ndarray:
        """Log-likelihood of answers to questions about pictures, in nats, [N]."""
        ...


@dataclasses.dataclass(frozen=True)
class CodeModel:
    """A model of picture codes and the tokenizer that they are of.

    Attributes:
        model: The model that speaks or draws.
        params: Its parameters.
        tokenizer: The picture tokenizer.
        tokenizer_params: Its parameters.
        composer: Turns prompts and questions into what the model takes.
        config: How to draw and answer.
        mesh: The devices to compute on; None is the default one.
    """

    model: nn.Module
    params: Params
    tokenizer: ImageTokenizer
    tokenizer_params: Params
    composer: Prompter
    config: GenerationConfig
    mesh: Mesh | None = None

    def encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Code pictures, uint8 [H, W, 3] each, to int32 [N, h, w] or [N, h, w, K]."""
        return self.batched(
            lambda chosen: encode_images(
                self.tokenizer,
                self.tokenizer_params,
                np.stack([pictures[i] for i in chosen]),
            ),
            [range(len(pictures))],
        )

    def batched(
        self,
        run: Callable[[np.ndarray], jax.Array | np.ndarray],
        groups: Sequence[Sequence[int]],
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Run over groups of indices, see `run_batched`."""
        return run_batched(run, groups, self.config.batch, self.mesh, progress)


@dataclasses.dataclass(frozen=True)
class Answerer(CodeModel, abc.ABC):
    """A model that answers questions about pictures, whatever it sees of them."""

    model: UniToken | UniTokMllm
    composer: Asker

    @abc.abstractmethod
    def pictures(
        self, views: Sequence[View], codes: np.ndarray
    ) -> Sequence[np.ndarray]:
        """What slots point into, one array a picture; its codes are given."""

    def answer(
        self,
        views: Sequence[View],
        questions: Sequence[str],
        progress: Progress = lambda done: None,
    ) -> list[str]:
        """Answer a question about each picture, greedily.

        Args:
            views: The pictures.
            questions: One for each picture.
            progress: Called with the number of questions done since the last call.
        """
        rows, pictures = self._ask(views, questions)
        lengths = [self._padded(len(tokens)) for tokens, _ in rows]

        def run(chosen: np.ndarray) -> jax.Array:
            prompts = pad_left(
                [rows[i][0] for i in chosen],
                [rows[i][1] for i in chosen],
                pad=self.composer.vocabulary.pad,
                length=lengths[chosen[0]],
            )
            return answer.answer(
                self.model,
                self.params,
                prompts,
                _seen(prompts, [pictures[i] for i in chosen]),
                end=self.composer.vocabulary.end,
                limit=self.config.answer_limit,
            )

        ids = self.batched(run, _groups(lengths, pictures), progress)
        return [self.composer.text(row) for row in answer.trim(ids)]

    def score_answers(
        self,
        views: Sequence[View],
        questions: Sequence[str],
        answers: Sequence[str],
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Log-likelihood of answers, their ends included, in nats, [N].

        Args:
            views: The pictures.
            questions: One for each picture.
            answers: One for each question.
            progress: See `answer`.
        """
        rows, pictures = self._ask(views, questions)
        replies = [self.composer.reply(text) for text in answers]
        lengths = [
            self._padded(len(tokens) + len(reply))
            for (tokens, _), reply in zip(rows, replies, strict=True)
        ]

        def run(chosen: np.ndarray) -> jax.Array:
            prompts, targets = with_answers(
                [rows[i] for i in chosen],
                [replies[i] for i in chosen],
                pad=self.composer.vocabulary.pad,
                length=lengths[chosen[0]],
            )
            seen = _seen(prompts, [pictures[i] for i in chosen])
            return answer_log_likelihood(
                self.model, self.params, prompts, targets, seen
            )

        return self.batched(run, _groups(lengths, pictures), progress)

    def _ask(
        self, views: Sequence[View], questions: Sequence[str]
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], Sequence[np.ndarray]]:
        """Tokens and slots of what stands before each answer, and their pictures."""
        codes = self.encode([view.whole for view in views])
        rows = [
            self.composer.question(grid, view.size, question)
            for grid, view, question in zip(codes, views, questions, strict=True)
        ]
        return rows, self.pictures(views, codes)

    def _padded(self, tokens: int) -> int:
        return bucket(tokens, self.config.length_multiple)


def _groups(lengths: Sequence[int], pictures: Sequence[np.ndarray]) -> list[list[int]]:
    """Group rows that may share a batch: of one length and one shape of pictures."""
    shapes = [picture.shape for picture in pictures]
    return alike(list(zip(lengths, shapes, strict=True)))


def _seen(prompts: Prompts, pictures: Sequence[np.ndarray]) -> np.ndarray | None:
    """Stack what slots point into; None if none does."""
    if not (prompts.slots >= 0).any():
        return None
    return np.stack(pictures)


@dataclasses.dataclass(frozen=True)
class Assistant(Answerer):
    """A UniToken and its tokenizer with everything that drawing and answering takes."""

    model: UniToken
    composer: Composer

    @functools.cached_property
    def layout(self) -> ImageLayout:
        """The tokens of a drawn picture."""
        composer = self.composer
        return image_layout(composer.vocabulary, *composer.grid, composer.sizes)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes, int [N, h, w], to pictures, uint8 [N, H, W, 3]."""
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
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Draw a picture for each prompt.

        Args:
            prompts: What to draw.
            seeds: One for each picture; prompt and seed decide the picture, whatever
                else is drawn with it.
            progress: Called with the number of pictures finished since the last call.

        Returns:
            uint8 [N, H, W, 3].

        Raises:
            UserError: The model is one for understanding only.
        """
        if self.model.config.mask_image_logits:
            raise UserError(
                "a model with mask_image_logits gives image codes no probability and "
                "cannot draw; set it to False in the stage's model."
            )
        config, layout = self.config, self.layout
        rows = [self.composer.request(prompt) for prompt in prompts]
        numbers = seed_numbers(seeds)
        guided = config.guidance != 1

        def run(chosen: np.ndarray) -> np.ndarray:
            context = self._context([rows[i] for i in chosen], guided)
            tokens = draw.draw(
                self.model,
                self.params,
                context,
                numbers[chosen],
                forced=layout.forced,
                allowed=layout.allowed,
                guidance=config.guidance if guided else None,
                top_k=config.top_k,
                top_p=None if config.top_p == 1 else config.top_p,
                temperature=config.temperature,
            )
            return decode_codes(
                self.tokenizer, self.tokenizer_params, layout.codes(tokens)
            )

        lengths = [self._context_length(row) for row in rows]
        return self.batched(run, alike(lengths), progress)

    def score(
        self,
        prompts: Sequence[str],
        codes: np.ndarray,
        progress: Progress = lambda done: None,
    ) -> np.ndarray:
        """Log-likelihood of pictures given prompts, in nats, [N].

        Args:
            prompts: One for each picture.
            codes: The pictures, int [N, rows, columns].
            progress: See `draw`.
        """
        layout = self.layout
        rows = [self.composer.request(prompt) for prompt in prompts]
        tokens = layout.tokens(codes)

        def run(chosen: np.ndarray) -> np.ndarray:
            return log_likelihood(
                self.model,
                self.params,
                self._context([rows[i] for i in chosen], guided=False),
                tokens[chosen],
                layout.drawn,
            )

        lengths = [self._context_length(row) for row in rows]
        return self.batched(run, alike(lengths), progress)

    def pictures(
        self, views: Sequence[View], codes: np.ndarray
    ) -> Sequence[np.ndarray]:
        """What the continuous encoder looks at, uint8 [M, h, w, 3] each."""
        del codes
        return [view.tiles for view in views]

    def _context_length(self, row: np.ndarray) -> int:
        """Padded length of a drawing prompt with BOS, end and BOI around it."""
        length = len(row) + 3 + len(self.config.lead)
        return bucket(length, self.config.length_multiple)

    def _context(self, rows: Sequence[np.ndarray], guided: bool) -> Prompts:
        return draw.contexts(
            rows,
            self.composer.vocabulary,
            length=max(map(self._context_length, rows)),
            unconditional=self.config.unconditional if guided else None,
            lead=self.config.lead,
        )
