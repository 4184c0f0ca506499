r"""One picture with its caption, learnt by heart in both directions.

What: the first thing to run on new hardware. A small tokenizer learns one picture, a
small UniToken its caption and its codes; then the picture is captioned and the caption
drawn. The run ends with SUCCESS, or with FAILURE and exit code 1.

Hardware: 2 CPU cores, 2 GiB of memory. Time: about a minute, two on one core, most of
it compiling.
`make overfit` is all of this:

    python -m data_pipelines.pick --input data/prepared/pictures \
        --output data/prepared/one
    python -m unitoken_jax.train --config configs/overfit_one.py \
        --workdir runs/overfit_one
"""

from ml_collections import ConfigDict

from configs import quickstart

NARROW = {"hidden": 128, "intermediate": 352, "layers": 2, "heads": 2, "kv_heads": 2}
VISION = {"hidden": 64, "mlp": 256, "layers": 2, "heads": 2, "head": False}


def tokenizer() -> dict:
    """The quickstart's tokenizer, narrower."""
    job = quickstart.tokenizer()
    job["model"] = job["model"] | {"ch_mult": (1, 2, 2, 4)}
    job["data"] = {"kind": "images", "image_size": quickstart.IMAGE}
    job["optimizer"] = job["optimizer"] | {"warmup": 10, "learning_rate": 3e-3}
    job["train"] = {"steps": 150, "batch": 1, "log_every": 10}
    job["checkpoint"] = {"every": 150}
    return job


def both() -> dict:
    """Reading and drawing at once, from nothing."""
    job = quickstart.stage2()
    model = job["model"]
    job["model"] = model | {
        "decoder": model["decoder"] | NARROW | {"remat": "none"},
        "vision": model["vision"] | VISION,
    }
    job["init"] = {}
    job["data"] = job["data"] | {
        "row_length": 128,
        "row_views": 1,
        "mixture": {"caption": 1.0, "question": 0.0, "draw": 1.0},
        "prompt_drop": 0.0,
    }
    job["optimizer"] = {"learning_rate": 3e-3, "warmup": 10, "no_decay": ".*"}
    job["train"] = {"steps": 80, "batch": 2, "log_every": 10}
    job["checkpoint"] = {"every": 80}
    return job


def get_config() -> ConfigDict:
    """Return the chain of two stages."""
    return ConfigDict(
        {
            "name": "overfit_one",
            "data_dir": "data/prepared/one",
            "order": ("tokenizer", "both"),
            "stages": {"tokenizer": tokenizer(), "both": both()},
            "evaluation": {
                "memorization": {"pairs": 1},
                "reconstruction": None,
                "perception": None,
                "understanding": None,
                "generation": None,
            },
            "generation": {"temperature": 0.0, "guidance": 1.0, "batch": 1},
        }
    )
