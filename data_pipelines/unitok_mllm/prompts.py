"""Prompts for UniTok's LLM, as in its training data."""

import numpy as np
from PIL import Image

from data_pipelines.prompts import (
    ImageInputs,
    PromptBuilder,
    PromptError,
    short,
    square_grid,
    square_inputs,
)
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitok_mllm import sequence
from data_pipelines.unitok_mllm.rows import MLLMRowsConfig
from data_pipelines.unitok_mllm.sequence import Turns


class MLLMPrompts(PromptBuilder):
    """Makes prompts and looks at pictures as the training data did.

    Attributes:
        vocabulary: Encodes the texts.
        grid: Rows and columns of an image's tokens.
        unconditional: Ids that stand in a prompt's place for guidance, BOS to BOI.
        row_length: Tokens of the rows of the training data.
    """

    def __init__(
        self, vocabulary: ImageTextVocabulary, config: MLLMRowsConfig, stride: int
    ) -> None:
        """Takes the rules from a stage's `data` group, of kind 'unitok_mllm'.

        Args:
            vocabulary: Of the data set.
            config: The group.
            stride: Pixels along one side of an image token.

        Raises:
            PromptError: The kind is another, or pictures are no whole number of tokens.
        """
        if config.kind != "unitok_mllm":
            raise PromptError(
                "prompts need a stage whose data.kind is 'unitok_mllm', not "
                f"{config.kind!r}"
            )
        self.grid = square_grid(config, stride)
        self.vocabulary = vocabulary
        self.row_length = config.row_length
        self._config = config
        self.unconditional = self._before(None)

    def view(self, image: Image.Image | np.ndarray) -> ImageInputs:
        """Prepare an image for the tokenizer."""
        return square_inputs(image, self._config)

    def request(self, text: str) -> np.ndarray:
        """Returns the ids that ask for a picture, BOS to BOI, int32 [p].

        Raises:
            PromptError: The prompt and its picture do not fit a row.
        """
        ids = self._before(text)
        self._check_room(text, len(ids) + self._size + 2)
        return ids

    def _before(self, text: str | None) -> np.ndarray:
        turns = sequence.draw_turns(text, self.vocabulary, self._config.prompts)
        ends = [self.vocabulary.bos, *turns.given, self.vocabulary.boi]
        return np.array(ends, np.int32)

    def question(
        self, codes: np.ndarray, size: tuple[int, int], text: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what stands before the answer to a question about a picture.

        The words of `prompts.caption_question` ask for a caption, which training puts
        right behind the picture.

        Args:
            codes: The picture's codes; they do not change what stands there.
            size: Likewise.
            text: The question.

        Returns:
            Tokens and feature index, int32 [p] each, see `packing.Sample`.

        Raises:
            PromptError: They do not fit a row.
        """
        del codes, size
        config = self._config.prompts
        if text.strip().lower() == config.caption_question.lower():
            given = sequence.caption_turns("", self.vocabulary).given
        else:
            given = sequence.question_turns(text, "", self.vocabulary, config).given
        turns = Turns(given, given[:0])
        spans = sequence.spans_of(turns, self.vocabulary)
        sample = sequence.lay_out(spans, self._size, self.vocabulary)  # … to end
        self._check_room(text, len(sample.tokens) + 1)
        return sample.tokens[:-1], sample.feature_index[:-1]

    def reply(self, text: str) -> np.ndarray:
        """Returns the ids of an answer and of the token that ends it, int32 [a]."""
        return np.array([*self.vocabulary.encode(text), self.vocabulary.end], np.int32)

    def text(self, ids: np.ndarray) -> str:
        """Returns the text of an answer."""
        return self.vocabulary.decode(ids).strip()

    @property
    def _size(self) -> int:
        return self.grid[0] * self.grid[1]

    def _check_room(self, text: str, length: int) -> None:
        if length > self._config.row_length:
            raise PromptError(
                f"the prompt {short(text)} takes {length} positions with its picture "
                f"and answer, but the model was trained on rows of "
                f"{self._config.row_length}; shorten it"
            )
