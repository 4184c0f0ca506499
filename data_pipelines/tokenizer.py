"""One interface to the three published tokenizers, chosen by their files.

Chameleon's (and UniToken's) tokenizer.json, Llama's tokenizer.model or tokenizer.json,
and CLIP's list of merges. Each is a class of its own; what only one of them has (image
codes, frames of a text tower) is on that class.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from data_pipelines.clip_vocabulary import ClipVocabulary
from data_pipelines.text_vocabulary import TextVocabulary, read_vocabulary
from data_pipelines.vocabulary import VocabularyError


class Tokenizer(Protocol):
    """Text to ids and back: what every tokenizer has."""

    @property
    def size(self) -> int:
        """Number of ids, one more than the largest."""
        ...

    @property
    def bos(self) -> int:
        """Id that begins a sequence."""
        ...

    @property
    def end(self) -> int:
        """Id that ends a turn or a text."""
        ...

    @property
    def pad(self) -> int:
        """Id that fills up."""
        ...

    def encode(self, text: str, /) -> list[int]:
        """The ids of a text, without any marker, whatever stands in the text."""
        ...

    def decode(self, ids: Iterable[int], /) -> str:
        """The text of `ids`; markers are left out."""
        ...


_CLIP = (".txt", ".gz")
_OTHERS = (".json", ".model")


def open_tokenizer(path: str | Path) -> TextVocabulary | ClipVocabulary:
    """Reads the tokenizer of a file; its ending says which it is.

    Args:
        path: tokenizer.json (Chameleon, UniToken, our own, Llama), tokenizer.model
            (Llama), or CLIP's list of merges in .txt or .txt.gz. A CLIP in a
            tokenizer.json is opened by `ClipVocabulary.from_file`.

    Raises:
        VocabularyError: another ending, or a file that is missing or damaged.
    """
    ending = Path(path).suffix
    if ending in _CLIP:
        return ClipVocabulary.from_file(path)
    if ending in _OTHERS:
        return read_vocabulary(path)
    raise VocabularyError(
        f"{path} is no tokenizer that is known: name a tokenizer.json (Chameleon,"
        " Llama), a tokenizer.model (Llama) or a list of merges in .txt or .txt.gz"
        " (CLIP)"
    )
