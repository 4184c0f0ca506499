"""CLIP's lower-case BPE (Radford et al. 2021), the text that UniTok's tower reads.

The published file, `bpe_simple_vocab_16e6.txt.gz`, lists merges. Ids are the 256 bytes,
the 256 bytes that end a word, one a merge, then the markers of start and end.
"""

import gzip
import html
import json
from collections.abc import Iterable
from pathlib import Path

import ftfy
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from data_pipelines.tokenizers.vocabulary import Vocabulary, VocabularyError

_MERGES = 49_152 - 256 - 2  # the file lists more than the published vocabulary has
_END_OF_WORD = "</w>"
_GZIP = b"\x1f\x8b"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipVocabulary(Vocabulary):
    """Ids and text of CLIP.

    Attributes:
        size: number of ids; 49,408 as published.
        bos: id of the start of a text.
        end: id of its end, the largest, from whose position the tower's feature is
            read.
        pad: 0, which is also the id of "!", as published.
    """

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        """Numbers the pieces that the merges, in their order, give."""
        alphabet = _alphabet()
        pieces = [*alphabet, *(letter + _END_OF_WORD for letter in alphabet)]
        pieces += ["".join(merge) for merge in merges]
        names = {piece: index for index, piece in enumerate(pieces)}
        self._tokenizer = Tokenizer(
            models.BPE(vocab=names, merges=merges, end_of_word_suffix=_END_OF_WORD)
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._decoder = decoders.ByteLevel()
        self.bos, self.end, self.pad = len(pieces), len(pieces) + 1, 0
        self.size = len(pieces) + 2

    @classmethod
    def from_file(cls, path: str | Path) -> "ClipVocabulary":
        """Reads a list of merges, plain or gzipped, or a tokenizer.json with them.

        Raises:
            VocabularyError: the file is missing or of another tokenizer.
        """
        try:
            data = Path(path).read_bytes()
            if data.startswith(_GZIP):
                data = gzip.decompress(data)
            text = data.decode("utf-8")
            merges = _merges_of_json(text) if text.startswith("{") else _merges(text)
            return cls(merges)
        except FileNotFoundError as error:
            raise VocabularyError(
                f"{path} is missing; it is bpe_simple_vocab_16e6.txt.gz of CLIP or"
                " open_clip, or the tokenizer.json of a CLIP"
            ) from error
        except Exception as error:  # tokenizers raises bare Exception
            raise VocabularyError(
                f"{path} is not CLIP's tokenizer ({error}); give"
                " bpe_simple_vocab_16e6.txt.gz or the tokenizer.json of a CLIP"
            ) from error

    def encode(self, text: str) -> list[int]:
        """The ids of a text without markers; markers in it are spelled out."""
        return self._tokenizer.encode(clean(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, lower case with a space between words, marks apart."""
        pieces = [
            self._tokenizer.id_to_token(int(i)) or "" for i in ids if i < self.bos
        ]
        return self._decoder.decode(pieces).replace(_END_OF_WORD, " ").strip()

    def frame(self, text: str, length: int = 77) -> np.ndarray:
        """What the text tower reads: start, text, end, padding; int32 [length].

        A text that is too long is cut, and its last id is the end.
        """
        ids = [self.bos, *self.encode(text), self.end][:length]
        framed = np.full(length, self.pad, np.int32)
        framed[: len(ids)] = ids
        if len(ids) == length:
            framed[-1] = self.end
        return framed


def _merges(text: str) -> list[tuple[str, str]]:
    """The pairs of a published list, whose first line is a title."""
    lines = text.rstrip("\n").split("\n")[1 : _MERGES + 1]
    pairs = [(first, second) for first, second in (line.split() for line in lines)]
    if not pairs:
        raise ValueError("there is no merge in it")
    return pairs


def _merges_of_json(text: str) -> list[tuple[str, str]]:
    """The pairs of a tokenizer.json that ends words as CLIP does."""
    model = json.loads(text)["model"]
    if model.get("end_of_word_suffix") != _END_OF_WORD:
        raise ValueError(f"its words do not end in {_END_OF_WORD}")
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    return [(first, second) for first, second in pairs]


def clean(text: str) -> str:
    """Mends broken encodings and HTML, collapses blanks, lower-cases, as CLIP does."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _alphabet() -> list[str]:
    """GPT-2's letters for the 256 bytes: those that print, then the others."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printing] + [chr(0x100 + n) for n in range(68)]
