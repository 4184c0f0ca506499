"""Shift-tolerant LPIPS with AlexNet: `alex_shift_tolerant.pth` of stlpips-pytorch."""

from unitoken_jax.convert.layouts import CONV, squeeze
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.models.perceptual.stlpips import StLpipsConfig

# Slice and place in it of AlexNet's convolutions.
_PLACES = ((1, 0), (2, 5), (3, 9), (4, 11), (5, 13))


def counts(config: StLpipsConfig) -> Counts:
    """No counters."""
    del config
    return {}


def table(config: StLpipsConfig, prefix: str = "") -> Table:
    """Rules of the network.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
    """
    rules: list[Rule | Ignored] = [
        Ignored("scaling_layer.*", "constants of the network"),
        Ignored("net.*.filt", "the blur, a constant of the network"),
        Ignored("lins.*", "the weights `lin*` under a second name"),
    ]
    for i, (part, place) in enumerate(_PLACES[: len(config.widths)]):
        key, path = f"net.slice{part}.{place}", f"{prefix}conv_{i}"
        rules.append(Rule(f"{key}.weight", f"{path}/kernel", CONV))
        rules.append(Rule(f"{key}.bias", f"{path}/bias"))
        weight = f"lin{i}.model.1.weight"
        rules.append(Rule(weight, f"{prefix}weight_{i}", squeeze(0, 2, 3)))
    return rules
