r"""The image tower's learning rate while the decoder is frozen, in miniature.

What: stage I of the quickstart with rates of SigLIP from 1e-6 to 5e-4 on captions and
questions, each with two seeds; the adapter's stays 1e-3. A tower that learns too fast
loses what it knew: its features of different pictures become alike. A small tower that
was trained at 1e-3 bears more than a large one, so two higher rates are there as well.
The page names a point as collapsed if its effective rank is below half of the sweep's
greatest: 5e-3 and 5e-2 do, in both seeds (docs/sweeps.md).

Hardware: one CPU core. Time: about 3 minutes a point. A finished quickstart gives the
shared stages, otherwise they take a quarter of an hour more.

    python -m launch.sweep --config configs/sweeps/vit_learning_rate.py \
        --workdir runs/vit_learning_rate --reuse runs/quickstart
"""

from ml_collections import ConfigDict

RATES = ("1e-6", "1e-5", "5e-5", "1e-4", "5e-4", "5e-3", "5e-2")
ADAPTER = 1e-3
_STAGE = "stages.stage1"


def rate(text: str) -> dict:
    """The tower's rate is its group's share of the optimizer's."""
    scale = float(text) / ADAPTER
    return {
        "label": text,
        "set": (f"{_STAGE}.optimizer.groups.vision.lr_scale={scale!r}",),
    }


def get_config() -> ConfigDict:
    """Return the sweep."""
    return ConfigDict(
        {
            "name": "vit_learning_rate",
            "title": "Learning rate of the image tower, decoder frozen",
            "config": "configs/quickstart_stage1.py",
            "set": (
                f"{_STAGE}.optimizer.learning_rate={ADAPTER}",
                f"{_STAGE}.train.batch=4",
                f"{_STAGE}.train.steps=150",
                f"{_STAGE}.data.mixture.question=1.0",
                "evaluation.reconstruction=None",
                "evaluation.retrieval=None",
                "evaluation.zero_shot=None",
                "evaluation.perception=None",
                "evaluation.generation=None",
                "evaluation.features.images=256",
            ),
            "axes": ({"name": "rate", "values": tuple(map(rate, RATES))},),
            "seeds": (4, 5),
            "seed_fields": (f"{_STAGE}.seed",),
            "page": {
                "x": "features/effective_rank",
                "y": "understanding/bits_per_answer/all",
                "measures": ("understanding/accuracy/all", "features/similarity"),
                "curves": ("stage1/text_loss",),
                "collapse": "features/effective_rank",
                "collapse_share": 0.5,
            },
        }
    )
