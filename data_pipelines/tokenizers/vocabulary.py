"""What every tokenizer has, whatever file it was read from.

Chameleon's (and UniToken's) tokenizer.json, Llama's tokenizer.model or tokenizer.json,
and CLIP's list of merges are a class each; what only one of them has (image codes,
frames of a text tower) is on that class.
"""

import abc
from collections.abc import Iterable

from data_pipelines.errors import DataError


class VocabularyError(DataError):
    """A file that is no tokenizer of the layout that is asked for."""


class Vocabulary(abc.ABC):
    """Text to ids and back.

    Attributes:
        size: number of ids, one more than the largest.
        bos: id that begins a sequence.
        end: id that ends a turn or a text.
        pad: id that fills up.
    """

    size: int
    bos: int
    end: int
    pad: int

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without any marker, whatever stands in the text."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; markers are left out."""


class ImageTextVocabulary(Vocabulary):
    """What sequences of text and image tokens need of a vocabulary.

    Attributes:
        boi: id that begins an image.
        eoi: id that ends an image.
    """

    boi: int
    eoi: int
