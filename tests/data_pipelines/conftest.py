"""Small records, pictures and data sets for the tests of the data pipelines."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import write_split
from data_pipelines.tokenizers.chameleon import train_vocabulary

TEXTS = ["a red heart", "what is this?", "two apples on a blue background", "yes", "no"]


def picture_bytes(seed: int = 0, size: int = 16, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, kind)
    return file.getvalue()


def record(index: int = 0) -> records.Record:
    asked = {"kind": "what", "question": "what is this?", "answer": "noise"}
    return records.make(
        f"picture/{index:05d}",
        images=[records.picture(picture_bytes(index), 16, 16)],
        captions=[f"picture number {index}", "näïve ❤"],
        questions=[records.Question(**asked)],
        group=f"concept {index}",
        category="noise",
        keywords=["grey"],
        source="test",
        license="none",
    )


def data_set(directory: Path, train: int = 7, heldout: int = 2) -> Path:
    directory.mkdir()
    (directory / "tokenizer.json").write_text(train_vocabulary(TEXTS, 16, 270, 2))
    splits = {}
    for split, start, count in (("train", 0, train), ("heldout", 100, heldout)):
        entries = (records.encode(record(start + i)) for i in range(count))
        splits[split] = write_split(directory, split, entries, count=count, shards=2)
    files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
    Manifest(splits, {"source": "test"}, {}, (), files).write(directory)
    return directory


@pytest.fixture(scope="session")
def examples() -> SimpleNamespace:
    return SimpleNamespace(
        TEXTS=TEXTS, picture_bytes=picture_bytes, record=record, data_set=data_set
    )
