"""What sequences of text and multi-codebook images need of a vocabulary, and Llama's.

Liquid and UniTok's LLM add no id to Llama's: two byte tokens that no text needs begin
and end an image, <0x00> and <0x01>, ids 3 and 4 of Llama 2; <unk> fills rows up. Our
own vocabulary of Chameleon's layout serves as it is.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from data_pipelines.sentencepiece_vocabulary import SentencePieceVocabulary
from data_pipelines.vocabulary import Vocabulary, VocabularyError, read_tokenizer

_BOI, _EOI = "<0x00>", "<0x01>"
_MARKERS: dict[int, None] = dict.fromkeys((0, 1))  # the characters that these bytes are


class TextVocabulary(Protocol):
    """What sequences of text and image tokens need of a vocabulary."""

    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    @property
    def bos(self) -> int:
        """Begins a sequence."""
        ...

    @property
    def pad(self) -> int:
        """Fills it up."""
        ...

    @property
    def end(self) -> int:
        """Ends it."""
        ...

    @property
    def boi(self) -> int:
        """Begins an image."""
        ...

    @property
    def eoi(self) -> int:
        """Ends an image."""
        ...

    def encode(self, text: str, /) -> list[int]:
        """Ids of a text, none of which is one of the above."""
        ...

    def decode(self, ids: Iterable[int], /) -> str:
        """The text of ids, without the above."""
        ...


class LiquidVocabulary:
    """Ids and text of Llama's tokenizer.json.

    Attributes:
        size: Number of ids, one more than the largest.
        bos, end, pad: Ids that begin, end and fill up a sequence.
        boi, eoi: Ids that begin and end an image.
    """

    def __init__(self, tokenizer: Tokenizer, where: str) -> None:
        """Reads the markers out of a tokenizer; `where` names it in messages.

        Raises:
            VocabularyError: A marker is missing.
        """
        ids = tokenizer.get_vocab(with_added_tokens=True)
        names = ("<s>", "</s>", "<unk>", _BOI, _EOI)
        if missing := [name for name in names if name not in ids]:
            raise VocabularyError(
                f"{where} has no {', '.join(missing)}; it is not Llama's tokenizer"
            )
        # Names such as "</s>" in a text are spelled out.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.size = max(ids.values()) + 1
        self.bos, self.end, self.pad, self.boi, self.eoi = map(ids.__getitem__, names)
        self._markers = {ids[name] for name in names}

    def encode(self, text: str) -> list[int]:
        """The ids of a text; characters that would be image markers are left out."""
        clean = text.translate(_MARKERS)
        return self._tokenizer.encode(clean, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; markers are left out."""
        pieces = [int(i) for i in ids if int(i) not in self._markers]
        return self._tokenizer.decode(pieces, skip_special_tokens=False)


def read_vocabulary(path: str | Path) -> TextVocabulary:
    """Reads a tokenizer.json of Chameleon's layout or Llama's, or a tokenizer.model.

    Raises:
        VocabularyError: The file is missing, damaged or none of these.
    """
    if Path(path).suffix == ".model":
        return SentencePieceVocabulary.from_file(path)
    tokenizer = read_tokenizer(path)
    if tokenizer.token_to_id(_BOI) is not None:
        return LiquidVocabulary(tokenizer, str(path))
    return Vocabulary(tokenizer, str(path))
