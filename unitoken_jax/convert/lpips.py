"""LPIPS with VGG16 in one file: UniTok's `lpips_with_vgg.pth`."""

from unitoken_jax.convert.layouts import CONV, squeeze
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.models.perceptual.lpips import LpipsConfig


def counts(config: LpipsConfig) -> Counts:
    """No counters: slices differ in depth."""
    del config
    return {}


def table(config: LpipsConfig, prefix: str = "") -> Table:
    """Rules of the network.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
    """
    rules: list[Rule | Ignored] = [
        Ignored("shift", "a constant of the network"),
        Ignored("scale_inv", "a constant of the network"),
    ]
    for i, depth in enumerate(config.depths):
        # Layers of a slice alternate with ReLUs, after a pooling in all but the first.
        first = 0 if i == 0 else 1
        for j in range(depth):
            key = f"net.slice{i + 1}.{first + 2 * j}"
            path = f"{prefix}slice_{i}_conv_{j}"
            rules.append(Rule(f"{key}.weight", f"{path}/kernel", CONV))
            rules.append(Rule(f"{key}.bias", f"{path}/bias"))
        weight = f"lins.{i}.model.1.weight"
        rules.append(Rule(weight, f"{prefix}weight_{i}", squeeze(0, 2, 3)))
    return rules
