r"""The quickstart with another encoding of pictures (arXiv 2504.04423, Table 6).

What: `:dual` reads pictures as codes and features, which is the quickstart itself;
`:discrete` reads and draws codes, so that SigLIP and stage I have no place;
`:decoupled` reads features and draws codes. The first stages are those of the
quickstart, and `configs/sweeps/data_ratio.py` varies stage II.

Hardware: as the quickstart.

    python -m unitoken_jax.train --config configs/quickstart_encodings.py:decoupled \
        --workdir runs/decoupled
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(encoding: str = "dual") -> ConfigDict:
    """Return the chain for 'dual', 'discrete' or 'decoupled'."""
    config = quickstart.get_config().to_dict()
    config["name"] = f"quickstart_{encoding}"
    stages = config["stages"]
    if encoding == "discrete":
        config["order"] = ("tokenizer", "base", "stage2")
        del stages["siglip"], stages["stage1"]
        base, last = stages["base"], stages["stage2"]
        last["model"] = base["model"]
        last["init"] = {"decoder": "base:decoder"}
        last["data"]["layout"] = base["data"]["layout"]
        del last["data"]["views"]
        last["optimizer"]["groups"] = base["optimizer"]["groups"]
    elif encoding == "decoupled":
        for name in ("stage1", "stage2"):
            data = stages[name]["data"]
            data["layout"] = data["layout"] | {"encoding": "continuous"}
    elif encoding != "dual":
        raise ValueError(f"{encoding!r} is not 'dual', 'discrete' or 'decoupled'.")
    return ConfigDict(config)
