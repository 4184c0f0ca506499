r"""The quickstart up to stage I, to vary how the image tower learns.

What: the first four stages of `configs/quickstart.py`, unchanged. Besides answers the
evaluation measures the tower's features, which collapse if it learns too fast;
`configs/sweeps/vit_learning_rate.py` varies the rate.

Hardware: as the quickstart, about 10 minutes.

    python -m unitoken_jax.train --config configs/quickstart_stage1.py \
        --workdir runs/stage1
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """Return the chain of four stages."""
    config = quickstart.get_config().to_dict()
    config["name"] = "quickstart_stage1"
    config["order"] = ("tokenizer", "siglip", "base", "stage1")
    del config["stages"]["stage2"]
    config["evaluation"] = {"features": {}}
    return ConfigDict(config)
