"""Llama's SentencePiece vocabulary, with the markers that UniTok's LLM makes of it.

Nothing is added to the 32,000 published ids: an image begins and ends with the pieces
of the bytes 0 and 1 (`<0x00>`, `<0x01>`), which no text needs.
"""

from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from data_pipelines.vocabulary import VocabularyError

_BOI, _EOI = 0, 1  # bytes
_MARKERS: dict[int, None] = dict.fromkeys((_BOI, _EOI))  # deleted from texts


class SentencePieceVocabulary:
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
        self.boi, self.eoi = (
            processor.piece_to_id(f"<0x{byte:02X}>") for byte in (_BOI, _EOI)
        )
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
