"""Prompts for a trained model, by the rules its training data was laid out with.

What a model is asked at inference must look like what it was trained on: the same
template, the same preparation of images, the same order of tokens. Nothing here knows a
model; `unitoken_jax.generate` takes a `PromptBuilder` as it is.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.classes import ClassesConfig
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.images import transforms


class PromptError(DataError):
    """A prompt the model cannot take; the message says why and what would fit."""


class ImageInputs(NamedTuple):
    """An image as the networks see it.

    Attributes:
        whole: For the tokenizer, uint8 [H, W, 3].
        tiles: For the continuous encoder, uint8 [M, side, side, 3].
        size: (width, height) of the image the tiles were cut from.
    """

    whole: np.ndarray
    tiles: np.ndarray
    size: tuple[int, int]


class PromptBuilder(abc.ABC):
    """Makes prompts and prepares images as the training data did.

    Attributes:
        grid: Rows and columns of an image's tokens.
    """

    grid: tuple[int, int]

    @abc.abstractmethod
    def view(self, image: Image.Image | np.ndarray) -> ImageInputs:
        """Prepare an image, uint8 [H, W, 3] or Pillow's."""

    @abc.abstractmethod
    def request(self, text: str) -> np.ndarray:
        """Return the ids that ask for an image, int32 [p].

        Raises:
            PromptError: They are none, or do not fit a row with their image.
        """

    @abc.abstractmethod
    def question(
        self, codes: np.ndarray, size: tuple[int, int], text: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what stands before the answer to a question about an image.

        Args:
            codes: The image's codes, int [rows, columns] or with codebooks behind.
            size: `ImageInputs.size`.
            text: The question.

        Returns:
            Tokens and feature index, int32 [p] each, see `packing.Sample`.

        Raises:
            PromptError: They do not fit a row, or the model answers nothing.
        """

    @abc.abstractmethod
    def reply(self, text: str) -> np.ndarray:
        """Return the ids of an answer and of the token that ends it, int32 [a]."""

    @abc.abstractmethod
    def text(self, ids: np.ndarray) -> str:
        """Return the text of an answer."""


def square_inputs(image: Image.Image | np.ndarray, config: DataConfig) -> ImageInputs:
    """Prepare an image for a tokenizer; no continuous encoder looks at it."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    square = transforms.to_square(image, config.image_size, config.background)
    return ImageInputs(square, np.zeros((0, 1, 1, 3), np.uint8), image.size)


def square_grid(config: DataConfig, stride: int) -> tuple[int, int]:
    """Return rows and columns of the tokens of a square image.

    Raises:
        PromptError: They are no whole numbers.
    """
    if config.image_size % stride:
        raise PromptError(
            f"pictures of {config.image_size} px are no whole number of tokens of "
            f"{stride} px; correct data.image_size"
        )
    side = config.image_size // stride
    return side, side


class ClassPrompts(PromptBuilder):
    """Finds classes by name or number.

    Attributes:
        grid: Rows and columns of an image's tokens.
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
        self.grid = square_grid(config, stride)
        self.names = None if names is None else tuple(names)
        self._count = count
        self._config = config

    def view(self, image: Image.Image | np.ndarray) -> ImageInputs:
        """Prepare an image for the tokenizer."""
        return square_inputs(image, self._config)

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


def short(text: str) -> str:
    """Quotes a text for a message, its beginning if it is long."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
