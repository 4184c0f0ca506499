r"""LlamaGen in miniature (arXiv 2502.20321, section 4.3): pictures of a category.

What: on the embedded pictures at 64 px a small UniTok learns to reconstruct (64 tokens
of 4 codes each), then a small LlamaGen with a depth head learns to draw its codes from
the 32 categories, a tenth of the labels dropped for guidance. The modules are those of
the published sizes. `--config.stages.generator.model.class_dropout=0` with
`--config.generation.guidance=1` is the guidance-free recipe.

Hardware: 2 CPU cores, 4 GiB of memory. Time: about 10 minutes, of which the generator
takes half. Result on held-out pictures: 2.12 bits a code, a picture's own class is the
likeliest for 33 % of 64 (the largest class alone gives 38 %); drawings are soft blobs
in the colors of their class (`report.html` of the run has them).

    python -m data_pipelines.prepare --input data/pictures.zip \
        --output data/prepared/pictures
    python -m unitoken_jax.train --config configs/llamagen_pictures.py \
        --workdir runs/llamagen_pictures
    python -m unitoken_jax.generate --config configs/llamagen_pictures.py \
        --workdir runs/llamagen_pictures --prompt animals --output animals.png --count 9
"""

from typing import Any

from ml_collections import ConfigDict

from configs.unitok_mllm_pictures import (
    BOOKS,
    CODES,
    IMAGE,
    NO_DECAY,
    STRIDE,
    tokenizer,
)


def generator() -> dict[str, Any]:
    """A GPT over the codes."""
    return {
        "seed": 2,
        "model": {
            "kind": "llamagen",
            "hidden": 192,
            "layers": 4,
            "heads": 6,
            "multiple_of": 64,
            "classes": 32,
            "null_class": True,
            "class_dropout": 0.1,
            "codebooks": BOOKS,
            "codes": CODES,
            "side": IMAGE // STRIDE,
            "depth_layers": 2,
            "token_dropout": 0.0,
            "dropout": 0.0,
            "loss_chunk": 64,
            "remat": "minimal",
        },
        "codes": {"stage": "tokenizer"},
        "data": {
            "kind": "classes",
            "image_size": IMAGE,
            "layout": {"code_stride": STRIDE},
        },
        "optimizer": {
            "learning_rate": 1.5e-3,
            "warmup": 30,
            "weight_decay": 0.05,
            "no_decay": NO_DECAY,
        },
        "train": {"steps": 300, "batch": 16, "log_every": 20},
        "checkpoint": {"every": 150},
    }


def get_config() -> ConfigDict:
    """Return the chain of two stages."""
    return ConfigDict(
        {
            "name": "llamagen_pictures",
            "data_dir": "data/prepared/pictures",
            "order": ("tokenizer", "generator"),
            "stages": {"tokenizer": tokenizer(), "generator": generator()},
            "generation": {"guidance": 2.0, "temperature": 0.9},
            "evaluation": {"perception": None},
        }
    )
