"""A chain of five tiny stages: what `configs/quickstart.py` is, in seconds."""

import io
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import write_split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary

IMAGE, STRIDE, PATCH, CODES = 12, 2, 4, 16
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEXTS = ["describe the image.", "generate an image according to the prompt:"] + [
    f"a {color} square on a plain background, what colour is it?" for color in COLORS
]


def _record(index: int) -> records.Record:
    """Return a plain square of one of three colors."""
    name = list(COLORS)[index % len(COLORS)]
    picture = np.full((IMAGE, IMAGE, 3), 255, np.uint8)
    inset = 1 + index % 3
    picture[inset:-inset, inset:-inset] = COLORS[name]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    question = {"kind": "color", "question": "what colour is it?", "answer": name}
    return records.make(
        f"square/{index:03d}",
        images=[records.picture(file.getvalue(), IMAGE, IMAGE)],
        captions=[f"a {name} square, {index}"],
        questions=[records.Question(**question)],
        category="squares",
        keywords=[name],
        source="test",
        license="none",
    )


def make_data(directory: Path) -> ChameleonVocabulary:
    """Write a prepared data set of squares; return its vocabulary."""
    directory.mkdir(parents=True)
    tokenizer = directory / "tokenizer.json"
    tokenizer.write_text(train_vocabulary(TEXTS, CODES, 270, 2))
    splits = {}
    for split, start, count in (("train", 0, 24), ("heldout", 100, 9)):
        entries = (records.encode(_record(start + i)) for i in range(count))
        splits[split] = write_split(directory, split, entries, count=count, shards=1)
    files = {tokenizer.name: file_digest(tokenizer)}
    Manifest(splits, {"source": "test"}, {}, (), files).write(directory)
    return ChameleonVocabulary.from_file(tokenizer)


def get_config(
    data_dir: Path, vocabulary: ChameleonVocabulary, steps: int = 3
) -> ConfigDict:
    """Return the chain over the data set in `data_dir`."""
    vision = {"hidden": 16, "mlp": 24, "layers": 1, "heads": 2}
    vision |= {"image": IMAGE, "patch": PATCH}
    text = {"vocab_size": vocabulary.size, "length": 8, "hidden": 16, "mlp": 24}
    text |= {"layers": 1, "heads": 2, "pad": vocabulary.pad, "mask_padding": True}
    unitoken = {
        "kind": "unitoken",
        "decoder": {
            "vocab_size": vocabulary.size,
            "hidden": 16,
            "intermediate": 24,
            "layers": 1,
            "heads": 2,
            "kv_heads": 2,
            "head_dim": 8,
        },
        "vision": vision | {"head": False},
        "first_image_code": int(vocabulary.code_ids.min()),
        "last_image_code": int(vocabulary.code_ids.max()),
    }
    tokenizer = {"kind": "vqgan", "resolution": IMAGE, "ch": 4, "ch_mult": (1, 2)}
    tokenizer |= {"num_res_blocks": 1, "z_channels": 4, "embed_dim": 4, "num_groups": 2}
    rows = {
        "kind": "sequences",
        "image_size": IMAGE,
        "row_length": 160,
        "row_views": 2,
        "views": {"size": IMAGE, "patch": PATCH},
        "layout": {"code_stride": STRIDE, "size_tokens": False},
    }
    discrete = rows["layout"] | {"encoding": "discrete"}
    parts = ("decoder", "vision", "adapter")
    groups = {name: {"pattern": f"{name}/.*"} for name in parts}
    stages = {
        "tokenizer": {
            "model": tokenizer | {"n_embed": CODES},
            "data": {"kind": "images", "image_size": IMAGE},
        },
        "siglip": {
            "model": {"kind": "siglip", "vision": vision, "text": text, "embed": 16},
            "data": {"kind": "pairs", "image_size": IMAGE, "text_length": 8},
        },
        "base": {
            "model": unitoken | {"vision": None},
            "data": {k: v for k, v in rows.items() if k != "views"}
            | {"layout": discrete},
            "codes": {"stage": "tokenizer"},
        },
        "stage1": {
            "model": unitoken,
            "data": rows | {"mixture": {"question": 0.0, "draw": 0.0}},
            "codes": {"stage": "tokenizer"},
            "init": {"decoder": "base:decoder", "vision": "siglip:vision"},
            "groups": groups | {"decoder": {"pattern": "decoder/.*", "frozen": True}},
        },
        "stage2": {
            "model": unitoken,
            "data": rows,
            "codes": {"stage": "tokenizer"},
            "init": {name: f"stage1:{name}" for name in parts},
            "groups": groups | {"vision": {"pattern": "vision/.*", "lr_scale": 0.1}},
        },
    }
    for number, stage in enumerate(stages.values()):
        optimizer = {"learning_rate": 1e-2}
        if "groups" in stage:
            optimizer["groups"] = stage.pop("groups")
        train = {"steps": steps, "batch": 8, "log_every": 1}
        stage |= {"seed": number, "optimizer": optimizer, "train": train}
    return ConfigDict(
        {
            "name": "tiny",
            "data_dir": str(data_dir),
            "order": tuple(stages),
            "stages": stages,
            "evaluation": {
                "reconstruction": {"images": 4, "batch": 4, "examples": 2},
                "retrieval": {"pairs": 4, "batch": 4, "ranks": (1,)},
                "understanding": {"questions": 4},
                "generation": {"images": 2, "drawings": 1, "captions": 2},
            },
        }
    )
