"""Chameleon's vocabulary: text pieces, image codes and markers under one set of ids.

Ids are read from tokenizer.json by name and never assumed, so the published file of
65,536 names and the small one that `train_vocabulary` makes are used alike. Names are
those of Chameleon and Lumina-mGPT: <s> begins a row, <racm3:break> an image, <eoss>
ends it, <sentinel:0> separates codes from continuous features, <reserved08706> ends a
turn, <reserved08799> a row of codes, <reserved{8800+n}> stands for n grids of 32 px.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary, VocabularyError

BOS, PAD, EOS, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
EOI, BOI, SEP = "<eoss>", "<racm3:break>", "<sentinel:0>"
END, NEWLINE = "<reserved08706>", "<reserved08799>"

_CODE = re.compile(r"IMGIMG([A-J]+)Z")
# Names that are never text: markers, codes, and the reserved and sentinel series.
_MARKER = re.compile(
    rf"<s>|<pad>|</s>|<unk>|<eoss>|<racm3:break>|<image>|<sentinel:\d+>"
    r"|<\|image\|>"
    rf"|<reserved\d{{5}}>|{_CODE.pattern}"
)
_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")
_BYTES = 256


def code_name(code: int) -> str:
    """The name of codebook index `code`: its decimal digits as letters A … J."""
    return f"IMGIMG{str(code).translate(_LETTERS)}Z"


def size_name(grids: int) -> str:
    """The name that says a picture's side is `grids` × 32 pixels."""
    return f"<reserved{8800 + grids:05d}>"


def structure_names(num_codes: int, size_tokens: int) -> list[str]:
    """The names of a trained vocabulary that are not text, in the order of their ids.

    Args:
        num_codes: Size of the image codebook.
        size_tokens: Names for sides of 1 … `size_tokens` grids of 32 pixels.
    """
    return [
        *(BOS, PAD, EOS, UNKNOWN),
        *(code_name(code) for code in range(num_codes)),
        *(EOI, BOI, SEP, END, NEWLINE),
        *(size_name(grids) for grids in range(1, size_tokens + 1)),
    ]


def train_vocabulary(
    texts: Iterable[str], num_codes: int, num_pieces: int, size_tokens: int
) -> str:
    """Trains a byte-level BPE of Chameleon's layout on `texts`.

    Text is lower-cased, as the data is, by the tokenizer itself. Digits and punctuation
    marks are single pieces, as in Chameleon's.

    Args:
        texts: Training text; the same texts in the same order give the same bytes.
        num_codes: Size of the image codebook.
        num_pieces: Number of text pieces with the 256 bytes; fewer if the texts do not
            have as many.
        size_tokens: Names for sides of 1 … `size_tokens` grids of 32 pixels.

    Returns:
        The contents of tokenizer.json.

    Raises:
        VocabularyError: `num_pieces` is below 256 or another size is not positive.
    """
    if num_pieces < _BYTES or num_codes < 1 or size_tokens < 1:
        raise VocabularyError(
            f"a vocabulary needs at least {_BYTES} text pieces (not {num_pieces}), one "
            f"code (not {num_codes}) and one size (not {size_tokens})"
        )
    names = structure_names(num_codes, size_tokens)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(r"[\p{P}\p{S}]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(names) + num_pieces,
        show_progress=False,
        special_tokens=[AddedToken(n, special=True, normalized=False) for n in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str(pretty=True) + "\n"


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer.json of whatever layout.

    Raises:
        VocabularyError: The file is missing or damaged.
    """
    try:
        text = Path(path).read_text("utf-8")
        json.loads(text)
        return Tokenizer.from_str(text)
    except FileNotFoundError as error:
        raise VocabularyError(
            f"{path} is missing; it stands beside the shards of a prepared data set"
        ) from error
    except Exception as error:  # tokenizers raises bare Exception
        raise VocabularyError(
            f"{path} is not a tokenizer.json ({error}); prepare the data again"
        ) from error


class ChameleonVocabulary(ImageTextVocabulary):
    """Names, ids and text of one tokenizer.json.

    Attributes:
        size: Number of ids, one more than the largest.
        bos, pad, end: Ids that begin a row, fill it up, and end a turn.
        boi, eoi, sep, newline: Ids around and inside an image.
        code_ids: int32 [C], codebook index → id.
        is_text: bool [V], whether an id is a piece of text.
    """

    def __init__(self, tokenizer: Tokenizer, where: str) -> None:
        """Reads the layout out of a tokenizer; `where` names it in messages.

        Raises:
            VocabularyError: A marker or a code is missing.
        """
        self._tokenizer = tokenizer
        self._where = where
        self._ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(self._ids.values()) + 1
        self.bos = self._id(BOS)
        self.pad = self._id(PAD)
        self.end = self._id(END)
        self.boi = self._id(BOI)
        self.eoi = self._id(EOI)
        self.sep = self._id(SEP)
        self.newline = self._id(NEWLINE)
        self.code_ids = self._read_codes()
        self._codes = np.full(self.size, -1, np.int32)
        self._codes[self.code_ids] = np.arange(len(self.code_ids), dtype=np.int32)
        self.is_text = np.zeros(self.size, bool)
        self.is_text[
            [i for name, i in self._ids.items() if not _MARKER.fullmatch(name)]
        ] = True

    @classmethod
    def from_file(cls, path: str | Path) -> "ChameleonVocabulary":
        """Reads a tokenizer.json.

        Raises:
            VocabularyError: The file is missing, damaged or of another layout.
        """
        return cls(read_tokenizer(path), str(path))

    @property
    def num_codes(self) -> int:
        """Size of the image codebook."""
        return len(self.code_ids)

    @property
    def first_code(self) -> int:
        """The smallest id of an image code."""
        return int(self.code_ids.min())

    @property
    def last_code(self) -> int:
        """The largest id of an image code."""
        return int(self.code_ids.max())

    def size_token(self, grids: int) -> int:
        """The id that says a picture's side is `grids` × 32 pixels.

        Raises:
            VocabularyError: The vocabulary has no such name.
        """
        return self._id(size_name(grids))

    def codes_of(self, ids: np.ndarray | Sequence[int]) -> np.ndarray:
        """The codebook index of every id, -1 where it is no code; int32 like `ids`."""
        return self._codes[np.asarray(ids)]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, which never hold a marker or a code.

        A name such as "<s>" in the text is spelled out, so that no text can forge the
        layout of a row.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for index, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if self.is_text[index]:
                ids.append(index)
                continue
            for character in text[start:stop]:
                ids += self._tokenizer.encode(character, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; markers and codes are left out."""
        pieces = [int(i) for i in ids if self.is_text[i]]
        return self._tokenizer.decode(pieces, skip_special_tokens=False)

    def name(self, index: int) -> str:
        """The name of an id as tokenizer.json spells it."""
        name = self._tokenizer.id_to_token(index)
        return "" if name is None else name

    def _id(self, name: str) -> int:
        if name not in self._ids:
            raise VocabularyError(
                f"{self._where} has no {name!r}; it is not a vocabulary of Chameleon's "
                "layout, or one made for smaller pictures"
            )
        return self._ids[name]

    def _read_codes(self) -> np.ndarray:
        codes = {
            int(match[1].translate(_DIGITS)): index
            for name, index in self._ids.items()
            if (match := _CODE.fullmatch(name))
        }
        if not codes or sorted(codes) != list(range(len(codes))):
            raise VocabularyError(
                f"{self._where} names {len(codes)} image codes that are not 0 … "
                f"{len(codes) - 1} (IMGIMGAZ, IMGIMGBZ, …); it is not a vocabulary of "
                "Chameleon's layout"
            )
        return np.array([codes[i] for i in range(len(codes))], np.int32)
