r"""LlamaGen over UniTok's codes (arXiv 2502.20321, section 4.3): pictures of a class.

What: GPT-B … GPT-XXL on ImageNet's 1000 classes at 256 px, from the published ten-crop
code files. `configs/llamagen.py:XL` chooses a size; XXL is the default.

Whose numbers: XXL is the guidance-free recipe of UniTok's README (batch 1024, rate
3e-4, cosine with 3 % warm-up, no label dropped, sampled at temperature 0.9: gFID 2.51).
The smaller sizes follow its earlier recipe for XL, which is LlamaGen's own: batch 256,
a constant rate of 1e-4, a tenth of the labels dropped, guidance 1.15. Both: 300 epochs,
AdamW (0.9, 0.95) with decay 0.05 on matrices, clipping at 1, dropout 0.1, bfloat16.

Hardware: a TPU v5p-128 slice (64 chips); `XXL_v5e_256`, `XXL_v6e_256` and `XXL_any`
choose others. Predicted, not measured, ±10 % (docs/plan.md), XXL: 0.21 to 0.26 s a
step, 22 to 27 hours, 17 GiB a chip on v5p-128; 0.11 to 0.16 s, 12 to 17 hours, 5 GiB on
v5e-256; 0.04 to 0.08 s, 4 to 8 hours, 5 GiB on v6e-256, for which nothing is
calibrated.

    python -m unitoken_jax.train --config configs/llamagen.py:XXL \
        --workdir runs/llamagen_xxl
"""

from ml_collections import ConfigDict

from configs import common

PICTURES, EPOCHS = 1_281_167, 300
SHAPES = {
    "B": {"layers": 12, "heads": 12, "hidden": 768},
    "L": {"layers": 24, "heads": 16, "hidden": 1024},
    "XL": {"layers": 36, "heads": 20, "hidden": 1280},
    "XXL": {"layers": 48, "heads": 24, "hidden": 1536},
}


def get_config(words: str = "XXL") -> ConfigDict:
    """Return the job of a size, and a slice if it is named: 'XXL' or 'XL_v5e_256'."""
    size, _, hardware = words.partition("_")
    if size not in SHAPES:
        raise ValueError(f"{size} is not a size: {', '.join(SHAPES)}")
    free = size == "XXL"
    batch = 1024 if free else 256
    steps = EPOCHS * PICTURES // batch
    return ConfigDict(
        {
            "name": f"llamagen_{size.lower()}",
            "seed": 0,
            "data_dir": "data/imagenet256_unitok",
            "finish": False,  # evaluation needs the image tokenizer beside it
            "model": {
                "kind": "llamagen",
                **SHAPES[size],
                "null_class": not free,
                "class_dropout": 0.0 if free else 0.1,
                "dtype": "bfloat16",
                "remat": "minimal",
            },
            "data": {
                "kind": "classes",
                "image_size": 256,
                "threads": 8,
                "prefetch": 8,
            },
            "optimizer": {
                "learning_rate": 3e-4 if free else 1e-4,
                "schedule": "cosine" if free else "constant",
                "warmup": 3 * steps // 100 if free else 0,
                "b1": 0.9,
                "b2": 0.95,
                "weight_decay": 0.05,
                "no_decay": ".*(scale|bias)",
                "clip": 1.0,
            },
            "train": {"steps": steps, "batch": batch},
            "checkpoint": {"every": 5000, "keep": 2},
            **common.parallelism(hardware or "v5p_128", batch),
            "generation": {
                "guidance": 1.0 if free else 1.15,
                "temperature": 0.9,
                "batch": 32,
            },
        }
    )
