r"""UniTok's tokenizer in miniature (arXiv 2502.20321): codes that carry a meaning.

What: the published network, losses and trainer on the embedded pictures at 64 px, with
one convolutional stage (64 tokens of 8 codes each) and narrow layers. Reconstruction
and captions supervise together, as in the paper's Table 6; eight codebooks hold 256
codes each. The perceptual distance is shift-tolerant LPIPS with its real weights, which
the second command fetches; a quarter of the pictures has it.

`configs/unitok_pictures.py:adversarial` trains 300 steps, the last 224 against UniTok's
discriminator (hinge, DiffAug, blur fade, consistency, adaptive weight). No package has
DINOv2's weights, so that a small backbone learns with the heads, and it begins earlier
and its weight grows more slowly than published. It takes 11 minutes of one core and
gives 20.3 dB, as the same steps without it (docs/training.md).

`configs/unitok_pictures.py:ablation` is the same at 32 px and shorter, without LPIPS,
for configs/sweeps/unitok_ablations.py; `:clip` starts it from a tower that captions
alone have trained.

Hardware: 2 CPU cores, 4 GiB of memory. Time: about 12 minutes of training. Result on
held-out pictures: 21.6 dB PSNR, every code of every codebook in use, recall@5 of 13 %
from image to text and 11 % back among 256 (chance 2 %).

    python -m data_pipelines.prepare --input data/pictures.zip \
        --output data/prepared/pictures
    python -m unitoken_jax.convert.perceptual --output data/perceptual
    python -m unitoken_jax.train --config configs/unitok_pictures.py \
        --workdir runs/unitok_pictures
"""

from typing import Any

from ml_collections import ConfigDict

VOCABULARY = 2560  # as in data_pipelines.prepare
CODEBOOKS, CODES = 8, 256

VISION = {
    "widths": (16,),
    "depths": (1,),
    "hidden": 128,
    "layers": 2,
    "heads": 4,
    "mlp": 256,
    "drop_path": 0.0,
}
TEXT = {
    "vocab_size": VOCABULARY + 1,  # and the end of a text
    "length": 16,
    "hidden": 128,
    "layers": 2,
    "heads": 4,
    "mlp": 512,
    "embed": 128,
}


def tokenizer(
    *, image: int, steps: int, batch: int, perceptual: float, supervision: str = "both"
) -> dict[str, Any]:
    """Encoder, codebooks, decoder and text tower, trained together."""
    job: dict[str, Any] = {
        "seed": 1,
        "model": {
            "kind": "unitok",
            "vision": VISION,
            "text": TEXT,
            "vocab_size": CODEBOOKS * CODES,
            "vocab_width": 64,
            "num_codebooks": CODEBOOKS,
            "search_chunk": 0,
            "objective": {
                "supervision": supervision,
                "perceptual": perceptual,
                "contrastive": 0.05,
                "revival": 1.0,
            },
        },
        "data": {
            "kind": "pairs",
            "image_size": image,
            "text_length": TEXT["length"],
            "text_end": True,
        },
        "optimizer": {
            "learning_rate": 2e-3,
            "warmup": 50,
            "end_scale": 0.05,
            "weight_decay": 0.02,
            "no_decay": ".*(scale|bias)",
            "clip": 10.0,
            "groups": {
                "all": {"pattern": ".*", "exclude": "quantizer/usage"},
                "usage": {"pattern": "quantizer/usage", "frozen": True},
            },
        },
        "train": {"steps": steps, "batch": batch, "log_every": 20},
        "checkpoint": {"every": 500},
    }
    if perceptual:
        job["model"]["objective"]["perceptual_every"] = 4
        path = "data/perceptual/stlpips_alex.safetensors"
        job["frozen_models"] = {"perceptual": {"format": "stlpips", "path": path}}
    return job


def discriminator() -> dict[str, Any]:
    """The published discriminator in small, of which all learns."""
    backbone = {"hidden": 64, "mlp": 128, "layers": 3, "heads": 4}
    return {
        "frozen": False,
        # A backbone from scratch needs some hundred steps until it tells pictures
        # apart: it begins earlier, its weight grows slowly, and it may be less steady
        # (published: 0.375, 0.03 and 4.0). Otherwise the tokenizer evades what little
        # it sees, and it scores everything alike.
        "start": 0.25,
        "ramp": 0.75,
        "consistency": 0.5,
        "network": {
            "backbone": backbone | {"grid": 8, "patch": 8},
            "taps": (0, 1, 2),
            "groups": 8,
        },
        "optimizer": {
            "learning_rate": 2e-3,
            "warmup": 9,
            "end_scale": 0.1,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-6,
            "weight_decay": 0.2,
            "no_decay": ".*(scale|bias)",
            "clip": 10.0,
        },
    }


def get_config(word: str = "") -> ConfigDict:
    """Return the chain; `word` is '', 'adversarial', 'ablation' or 'clip'."""
    small = {"image": 32, "steps": 300, "batch": 32, "perceptual": 0.0}
    if word == "":
        stages = {"tokenizer": tokenizer(image=64, steps=600, batch=32, perceptual=0.1)}
        stages["tokenizer"]["train"]["image_every"] = 300
    elif word == "adversarial":
        stages = {"tokenizer": tokenizer(image=64, steps=300, batch=32, perceptual=0.1)}
        stages["tokenizer"]["train"]["image_every"] = 100
        stages["tokenizer"]["discriminator"] = discriminator()
    elif word == "ablation":
        stages = {"tokenizer": tokenizer(**small)}
    elif word == "clip":
        stages = {
            "clip": tokenizer(**small, supervision="contrastive"),
            "tokenizer": tokenizer(**small),
        }
        start = {"encoder": "clip:encoder", "text": "clip:text"}
        stages["tokenizer"]["init"] = start
    else:
        known = "adversarial, ablation or clip"
        raise ValueError(f"unitok_pictures:{word} is not known: {known}")
    return ConfigDict(
        {
            "name": "unitok_pictures",
            "data_dir": "data/prepared/pictures",
            "order": tuple(stages),
            "stages": stages,
            # Asked for by name also where no caption was seen, as the chance level.
            "evaluation": {"retrieval": {}},
        }
    )
