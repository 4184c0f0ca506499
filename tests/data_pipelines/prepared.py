"""Small pre-tokenised data sets on disk, for tests of what reads them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.images.pairs import ImagesConfig, PairsConfig
from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import write_split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from data_pipelines.unitoken.rows import SequencesConfig
from data_pipelines.unitoken.sequence import LayoutConfig

# Pictures of 32 px in 4 × 4 codes of 8 px, seen by an encoder of 4 × 4 patches.
SEQUENCES = SequencesConfig(
    image_size=32,
    row_length=160,
    row_views=3,
    views=ViewsConfig(32, 8),
    layout=LayoutConfig(code_stride=8, prompt_template="draw {caption}"),
    prompt_drop=0.25,
    threads=0,
)
IMAGES = ImagesConfig(image_size=32, threads=0)
PAIRS = PairsConfig(image_size=32, text_length=8, threads=0)

TEXTS = ["a red heart", "what is this?", "two apples on a blue background", "yes"]


def picture_bytes(seed: int, size: int) -> bytes:
    """A PNG of coloured noise with transparency."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 4), np.uint8)
    pixels[::2, ::2, 3] = 255
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return file.getvalue()


def record(index: int, rng: np.random.Generator) -> records.Record:
    """A record with one to three captions and none to two questions."""
    words = ["red", "blue", "heart", "apple", "left", "two"]
    captions = [" ".join(rng.choice(words, 3)) for _ in range(rng.integers(1, 4))]
    questions = [
        {"kind": "what", "question": f"is it {words[i]}?", "answer": "yes"}
        for i in range(rng.integers(0, 3))
    ]
    made = records.make(
        f"picture/{index:05d}",
        images=[records.picture(picture_bytes(index, size=32), 32, 32)],
        captions=captions,
        questions=questions,
        group=f"concept {index}",
        source="test",
        license="none",
    )
    return records.with_codes(made, rng.integers(0, 16, (4, 4)))


def make(directory: Path, count: int = 24, shards: int = 2, **changes: dict) -> Path:
    """Writes a data set; `changes` maps 'r5' to the fields of record 5 to replace.

    Those of its picture, which are not the record's own, are replaced there.
    """
    rng = np.random.default_rng(0)
    directory.mkdir()
    (directory / "tokenizer.json").write_text(train_vocabulary(TEXTS, 16, 270, 2))
    made = [_changed(record(i, rng), changes.get(f"r{i}", {})) for i in range(count)]
    entries = map(records.encode, made)
    splits = {
        "train": write_split(directory, "train", entries, count=count, shards=shards)
    }
    files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
    Manifest(splits, {"source": "test"}, {}, (), files).write(directory)
    return directory


def _changed(made: records.Record, changes: dict) -> records.Record:
    (picture,) = made["images"]
    inner = {key: value for key, value in changes.items() if key in picture}
    outer = {key: value for key, value in changes.items() if key not in picture}
    return made | {"images": [picture | inner]} | outer


def vocabulary(directory: Path) -> ChameleonVocabulary:
    return ChameleonVocabulary.from_file(directory / "tokenizer.json")
