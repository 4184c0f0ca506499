"""One interface to the three published tokenizers, chosen by their files.

Chameleon's (and UniToken's) tokenizer.json, Llama's tokenizer.model and CLIP's list of
merges. Each is a class of its own; what only one of them has (image codes, frames of a
text tower) is on that class.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from data_pipelines.clip_vocabulary import ClipVocabulary
from data_pipelines.sentencepiece_vocabulary import SentencePieceVocabulary
from data_pipelines.vocabulary import Vocabulary, VocabularyError


class Tokenizer(Protocol):
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

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any marker, whatever stands in the text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; markers are left out."""
        ...


_KINDS = {
    ".json": Vocabulary,
    ".model": SentencePieceVocabulary,
    ".txt": ClipVocabulary,
    ".gz": ClipVocabulary,
}


def open_tokenizer(
    path: str | Path,
) -> Vocabulary | SentencePieceVocabulary | ClipVocabulary:
    """Reads the tokenizer of a file; its ending says which it is.

    Args:
        path: tokenizer.json (Chameleon, UniToken, our own), tokenizer.model (Llama), or
            CLIP's list of merges in .txt or .txt.gz. A CLIP in a tokenizer.json is
            opened by `ClipVocabulary.from_file`.

    Raises:
        VocabularyError: another ending, or a file that is missing or damaged.
    """
    kind = _KINDS.get(Path(path).suffix)
    if kind is None:
        raise VocabularyError(
            f"{path} is no tokenizer that is known: name a tokenizer.json (Chameleon),"
            " a tokenizer.model (Llama) or a list of merges in .txt or .txt.gz (CLIP)"
        )
    return kind.from_file(path)
