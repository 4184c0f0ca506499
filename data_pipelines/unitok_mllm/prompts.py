"""Prompts for UniTok's LLM and classes for LlamaGen, as in their training data."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.config import ClassesConfig, DataConfig, LiquidRowsConfig
from data_pipelines.images import transforms
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitok_mllm import sequence as liquid
from data_pipelines.unitok_mllm.sequence import Turns
from data_pipelines.unitoken.prompts import PromptError, View, short


def see(picture: Image.Image | np.ndarray, config: DataConfig) -> View:
    """Prepares a picture for a tokenizer; no continuous encoder looks at it."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    square = transforms.to_square(picture, config.image_size, config.background)
    return View(square, np.zeros((0, 1, 1, 3), np.uint8), picture.size)


class LiquidComposer:
    """Makes prompts and looks at pictures as the training data did.

    Attributes:
        vocabulary: Encodes the texts.
        grid: Rows and columns of a picture's tokens.
        unconditional: Ids that stand in a prompt's place for guidance, BOS to BOI.
        row_length: Tokens of the rows of the training data.
    """

    def __init__(
        self, vocabulary: ImageTextVocabulary, config: LiquidRowsConfig, stride: int
    ) -> None:
        """Takes the rules from a stage's `data` group, of kind 'liquid'.

        Args:
            vocabulary: Of the data set.
            config: The group.
            stride: Pixels along one side of an image token.

        Raises:
            PromptError: The kind is another, or pictures are no whole number of tokens.
        """
        if config.kind != "liquid":
            raise PromptError(
                f"prompts need a stage whose data.kind is 'liquid', not {config.kind!r}"
            )
        self.grid = _grid(config, stride)
        self.vocabulary = vocabulary
        self.row_length = config.row_length
        self._config = config
        self.unconditional = self._before(None)

    def view(self, picture: Image.Image | np.ndarray) -> View:
        """Prepares a picture for the tokenizer."""
        return see(picture, self._config)

    def request(self, text: str) -> np.ndarray:
        """Returns the ids that ask for a picture, BOS to BOI, int32 [p].

        Raises:
            PromptError: The prompt and its picture do not fit a row.
        """
        ids = self._before(text)
        self._check_room(text, len(ids) + self._size + 2)
        return ids

    def _before(self, text: str | None) -> np.ndarray:
        turns = liquid.draw_turns(text, self.vocabulary, self._config.liquid)
        ends = [self.vocabulary.bos, *turns.given, self.vocabulary.boi]
        return np.array(ends, np.int32)

    def question(
        self, codes: np.ndarray, size: tuple[int, int], text: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what stands before the answer to a question about a picture.

        The words of `liquid.caption_question` ask for a caption, which training puts
        right behind the picture.

        Args:
            codes: The picture's codes; they do not change what stands there.
            size: Likewise.
            text: The question.

        Returns:
            Tokens and slots, int32 [p] each, see `liquid.LiquidSample`.

        Raises:
            PromptError: They do not fit a row.
        """
        del codes, size
        config = self._config.liquid
        if text.strip().lower() == config.caption_question.lower():
            given = liquid.caption_turns("", self.vocabulary).given
        else:
            given = liquid.question_turns(text, "", self.vocabulary, config).given
        turns = Turns(given, given[:0])
        sample = liquid.lay_out(turns, self._size, self.vocabulary)  # … to end
        self._check_room(text, len(sample.tokens) + 1)
        return sample.tokens[:-1], sample.slots[:-1]

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


class ClassComposer:
    """Finds classes by name or number.

    Attributes:
        grid: Rows and columns of a picture's tokens.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        count: int,
        config: ClassesConfig,
        stride: int,
    ) -> None:
        """Takes the classes of a data set.

        Args:
            names: Of the classes by number; None if they have none.
            count: How many classes there are.
            config: A stage's `data` group, of kind 'classes'.
            stride: Pixels along one side of an image token.

        Raises:
            PromptError: Pictures are no whole number of tokens.
        """
        self.grid = _grid(config, stride)
        self.names = None if names is None else tuple(names)
        self._count = count
        self._config = config

    def view(self, picture: Image.Image | np.ndarray) -> View:
        """Prepares a picture for the tokenizer."""
        return see(picture, self._config)

    def request(self, text: str) -> np.ndarray:
        """Returns the class that a text names or numbers, int32 [1].

        Raises:
            PromptError: There is none; the message names those there are.
        """
        wanted = text.strip()
        if self.names is not None and wanted in self.names:
            return np.array([self.names.index(wanted)], np.int32)
        few = len(wanted) <= len(str(self._count))  # of digits, or of anything
        if few and wanted.isdecimal() and int(wanted) < self._count:
            return np.array([int(wanted)], np.int32)
        known = f"0 … {self._count - 1}"
        if self.names is not None:
            known += f", or one of: {', '.join(self.names)}"
        raise PromptError(f"there is no class {short(text)}; give a number {known}")

    def question(
        self, codes: np.ndarray, size: tuple[int, int], text: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refuses: the model knows no words.

        Raises:
            PromptError: Always.
        """
        raise PromptError(
            "a class-conditional generator answers no questions; give the class to "
            "draw and no picture"
        )

    def reply(self, text: str) -> np.ndarray:
        """Refuses: the model knows no words.

        Raises:
            PromptError: Always.
        """
        raise PromptError("a class-conditional generator writes no answers")

    def text(self, ids: np.ndarray) -> str:
        """Returns the names of classes."""
        return ", ".join(str(i) if self.names is None else self.names[i] for i in ids)


def _grid(config: DataConfig, stride: int) -> tuple[int, int]:
    if config.image_size % stride:
        raise PromptError(
            f"pictures of {config.image_size} px are no whole number of tokens of "
            f"{stride} px; correct data.image_size"
        )
    side = config.image_size // stride
    return side, side
