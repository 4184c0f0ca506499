r"""UniTok's multimodal LLM in miniature (arXiv 2502.20321): it reads and draws codes.

What: on the embedded pictures at 64 px a small UniTok learns to reconstruct (64 tokens
of 4 codes each), then a small Llama with code embedder and depth head learns to draw
captions and to answer questions, in Liquid's framework. The modules are those of the
published sizes. The tokenizer has no captions here; `configs/unitok_pictures.py` does.

Hardware: 2 CPU cores, 4 GiB of memory. Time: about 14 minutes of one core, of which the
LLM takes two thirds. Result on held-out pictures: 2.16 bits a code; a picture is
likeliest under its own caption among 8 for 59 % of 32 (chance 13 %); drawings have the
background that is asked for and nothing on it; answers are right for 7 % of 240, less
than the most frequent answer's 19 % (`report.html` of the run has them).

    python -m data_pipelines.prepare --input data/pictures.zip \
        --output data/prepared/pictures
    python -m unitoken_jax.train --config configs/unitok_mllm_pictures.py \
        --workdir runs/unitok_mllm_pictures
"""

from typing import Any

from ml_collections import ConfigDict

IMAGE = 64  # side of a picture, pixels
STRIDE = 8  # pixels along one side of an image token
BOOKS, CODES, CODE_WIDTH = 4, 256, 8
WIDTH, HEADS = 128, 4  # of the tokenizer, and of its projection between widths
VOCABULARY = 2560  # as in data_pipelines.prepare
NO_DECAY = ".*(scale|bias)"


def tokenizer() -> dict[str, Any]:
    """A UniTok that reconstructs."""
    vision = {"widths": (16,), "depths": (1,), "hidden": WIDTH, "layers": 2}
    vision |= {"heads": 4, "mlp": 256, "drop_path": 0.0}
    text = {"vocab_size": 2, "length": 2, "hidden": 8, "layers": 1, "heads": 1}
    usage = "quantizer/usage"
    return {
        "seed": 1,
        "model": {
            "kind": "unitok",
            "vision": vision,
            "text": text | {"mlp": 8, "embed": 8},
            "vocab_size": BOOKS * CODES,
            "vocab_width": BOOKS * CODE_WIDTH,
            "num_codebooks": BOOKS,
            "search_chunk": 0,
            "objective": {"supervision": "reconstruction", "perceptual": 0.0},
        },
        "data": {"kind": "images", "image_size": IMAGE, "augment": {"flip": 0.5}},
        "optimizer": {
            "learning_rate": 2e-3,
            "warmup": 30,
            "end_scale": 0.05,
            "weight_decay": 0.02,
            "no_decay": NO_DECAY,
            "clip": 10.0,
            "groups": {
                "all": {"pattern": ".*", "exclude": usage},
                "usage": {"pattern": usage, "frozen": True},
            },
        },
        "train": {"steps": 200, "batch": 32, "log_every": 20, "image_every": 100},
        "checkpoint": {"every": 100},
    }


def mllm() -> dict[str, Any]:
    """Llama, code embedder and depth head; the codes' vectors stay the tokenizer's."""
    still = "embedder/quantizer/.*"
    return {
        "seed": 2,
        "model": {
            "kind": "unitok_mllm",
            "decoder": {
                "vocab_size": VOCABULARY,
                "hidden": 192,
                "intermediate": 512,
                "layers": 4,
                "heads": 6,
                "kv_heads": 6,
                "head_dim": 32,
                "qk_norm": False,
                "remat": "minimal",
            },
            "codebooks": BOOKS,
            "codes": CODES,
            "code_width": CODE_WIDTH,
            "projection": WIDTH,
            "projection_heads": HEADS,
            "depth_layers": 2,
            "loss_chunk": 1280,
            "code_chunk": 64,
        },
        "codes": {"stage": "tokenizer"},
        "init": {
            "embedder/quantizer": "tokenizer:quantizer",
            "embedder/projection": "tokenizer:widen",
        },
        "data": {
            "kind": "unitok_mllm",
            "image_size": IMAGE,
            "row_length": 256,
            "row_views": 3,
            "layout": {"code_stride": STRIDE},
            "prompts": {
                "request": "draw {caption}",
                "question": "<|image|>{question}",
                "markers_in_question": True,
                "mixture": {"draw": 2.0, "caption": 0.5, "question": 1.0},
            },
        },
        "optimizer": {
            "learning_rate": 1.5e-3,
            "warmup": 30,
            "weight_decay": 0.05,
            "no_decay": NO_DECAY,
            "groups": {
                "frozen": {"pattern": still, "frozen": True},
                "rest": {"pattern": ".*", "exclude": still},
            },
        },
        "train": {"steps": 250, "batch": 8, "log_every": 20},
        "checkpoint": {"every": 100},
    }


def get_config() -> ConfigDict:
    """Return the chain of two stages."""
    return ConfigDict(
        {
            "name": "unitok_mllm_pictures",
            "data_dir": "data/prepared/pictures",
            "order": ("tokenizer", "mllm"),
            "stages": {"tokenizer": tokenizer(), "mllm": mllm()},
            "generation": {"guidance": 3.0},
            "evaluation": {
                "understanding": {"questions": 24},
                "generation": {"images": 32, "drawings": 32},
                "perception": None,
            },
        }
    )
