"""Llama's vocabulary, of its tokenizer.json or tokenizer.model (SentencePiece).

Liquid and UniTok's LLM add no id to Llama's: two byte tokens that no text needs begin
and end an image, <0x00> and <0x01>, ids 3 and 4 of Llama 2; <unk> fills rows up.
"""

from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer

from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary, VocabularyError

_BOI, _EOI = "<0x00>", "<0x01>"
_MARKERS: dict[int, None] = dict.fromkeys((0, 1))  # the characters that these bytes are


class LlamaVocabulary(ImageTextVocabulary):
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


class SentencePieceVocabulary(ImageTextVocabulary):
    """Ids and text of one tokenizer.model of Llama's.

    Attributes:
        size: number of ids.
        bos: id of the start of a text.
        end: id of its end (`</s>`).
        pad: id of the unknown piece, which published training pads with.
        boi: id that an image begins with.
        eoi: id that it ends with.
    """

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, where: str
    ) -> None:
        """Reads the ids of the markers; `where` names the file in messages.

        Raises:
            VocabularyError: one is missing.
        """
        self._processor = processor
        self.size = processor.vocab_size()
        self.bos, self.end = processor.bos_id(), processor.eos_id()
        self.pad = processor.unk_id()
        self.boi, self.eoi = (processor.piece_to_id(name) for name in (_BOI, _EOI))
        if min(self.bos, self.end) < 0 or not processor.is_byte(self.boi):
            raise VocabularyError(
                f"{where} has no <s>, </s> or pieces of bytes; it is not a vocabulary"
                " of Llama's layout"
            )
        self._silent = {self.boi, self.eoi, self.pad}

    @classmethod
    def from_file(cls, path: str | Path) -> "SentencePieceVocabulary":
        """Reads a tokenizer.model.

        Raises:
            VocabularyError: the file is missing, damaged or of another layout.
        """
        try:
            processor = sentencepiece.SentencePieceProcessor()
            processor.LoadFromSerializedProto(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise VocabularyError(
                f"{path} is missing; it stands beside the weights of a Llama"
            ) from error
        except (OSError, RuntimeError) as error:
            raise VocabularyError(
                f"{path} is no tokenizer.model of SentencePiece ({error})"
            ) from error
        return cls(processor, str(path))

    def encode(self, text: str) -> list[int]:
        """The ids of a text without markers.

        Markers spelled in the text stay text, and the two bytes that mark images are
        left out, so that no text can forge the layout of a row.
        """
        return self._processor.encode(text.translate(_MARKERS))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; markers are left out."""
        kept = [int(i) for i in ids if int(i) not in self._silent]
        return self._processor.decode(kept)


def is_llama(tokenizer: Tokenizer) -> bool:
    """Say whether a tokenizer.json names the bytes that Llama's does."""
    return tokenizer.token_to_id(_BOI) is not None
