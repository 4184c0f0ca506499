"""Small data sets whose pictures have codes of several codebooks."""

from pathlib import Path

import numpy as np
import prepared
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import write_split
from data_pipelines.tokenizers.chameleon import train_vocabulary

ROWS, COLUMNS, CODEBOOKS, CODES = 3, 2, 4, 16
SIZE = ROWS * COLUMNS  # tokens of a picture


def record(index: int, rng: np.random.Generator) -> records.Record:
    """A record with one to three captions, a category, and codes."""
    made = prepared.record(index, rng)
    made["category"] = ["animals", "food", "signs"][index % 3]
    codes = rng.integers(0, CODES, (ROWS, COLUMNS, CODEBOOKS))
    return records.with_codes(made, codes)


def text_record(index: int) -> records.Record:
    """A record without a picture."""
    made = prepared.record(index, np.random.default_rng(index))
    made = made | {"images": [], "id": f"text/{index:05d}", "category": "animals"}
    return made | {"captions": [f"two apples and {index} hearts"], "questions": []}


def write(directory: Path, made: list[records.Record], tokenizer: str) -> Path:
    """Writes records as the split 'train' of a data set."""
    directory.mkdir()
    (directory / "tokenizer.json").write_text(tokenizer)
    entries = map(records.encode, made)
    count = len(made)
    splits = {"train": write_split(directory, "train", entries, count=count, shards=2)}
    files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
    provenance = {
        "tokenizer_id": "test",
        "image_size": 32,
        "background": [255, 255, 255],
        "codebook": [CODEBOOKS, CODES],
    }
    Manifest(splits, provenance, {}, (), files).write(directory)
    return directory


def make(directory: Path, count: int = 24, texts: int = 0) -> Path:
    """Writes a data set of `count` pictures, and `texts` records of text alone."""
    rng = np.random.default_rng(0)
    made = [record(i, rng) for i in range(count)]
    made += [text_record(i) for i in range(texts)]
    return write(directory, made, train_vocabulary(prepared.TEXTS, 16, 270, 2))


def llama_tokenizer() -> str:
    """A tokenizer.json in the manner of Llama's: bytes, a few pieces, ▁ for spaces."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [*"▁abcdefghijklmnopqrstuvwxyz", "▁a", "he", "art", "heart"]
    names = {piece: index for index, piece in enumerate(pieces + letters)}
    merges = [("▁", "a"), ("h", "e")]
    tokenizer = Tokenizer(
        models.BPE(names, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [AddedToken(n, special=True, normalized=False) for n in pieces[:3]]
    tokenizer.add_special_tokens(special)
    return tokenizer.to_str()
