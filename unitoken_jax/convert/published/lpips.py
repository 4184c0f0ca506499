"""LPIPS in its two publications, whose files do not describe themselves.

`lpips` is UniTok's `lpips_with_vgg.pth`: VGG16 and the linear heads in one file;
`stlpips` is `alex_shift_tolerant.pth` of stlpips-pytorch, with AlexNet.
"""

from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import Fields, Values, how, usual, wholes
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import CONV, squeeze
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table, kernel_and_bias
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.perceptual.lpips import Lpips, LpipsConfig
from unitoken_jax.models.perceptual.stlpips import StLpips, StLpipsConfig


def counts(config: LpipsConfig | StLpipsConfig) -> Counts:
    """No counters: what a slice holds depends on the slice."""
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
            rules += kernel_and_bias(key, path, CONV)
        weight = f"lins.{i}.model.1.weight"
        rules.append(Rule(weight, f"{prefix}weight_{i}", squeeze(0, 2, 3)))
    return rules


# Slice and place in it of AlexNet's convolutions.
_PLACES = ((1, 0), (2, 5), (3, 9), (4, 11), (5, 13))


def stlpips_table(config: StLpipsConfig, prefix: str = "") -> Table:
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
        rules += kernel_and_bias(key, path, CONV)
        weight = f"lin{i}.model.1.weight"
        rules.append(Rule(weight, f"{prefix}weight_{i}", squeeze(0, 2, 3)))
    return rules


LPIPS_FIELDS: Fields = {
    "widths": usual(LpipsConfig().widths, "it is VGG16", "widths"),
    "depths": usual(LpipsConfig().depths, "it is VGG16", "depths"),
    **how("dtype"),
}
STLPIPS_FIELDS: Fields = {
    "widths": usual(StLpipsConfig().widths, "it is AlexNet", "widths"),
    "sizes": usual(StLpipsConfig().sizes, "it is AlexNet", "sizes"),
    **how("dtype"),
}


def read_lpips(values: Values) -> LpipsConfig:
    """VGG16 unless the values say otherwise."""
    default = LpipsConfig()
    config = LpipsConfig(
        widths=wholes(values, "widths", default.widths),
        depths=wholes(values, "depths", default.depths, most=1024),
    )
    _check_lengths(config.widths, config.depths, "depths")
    return config


def _check_lengths(widths: tuple[int, ...], others: tuple[int, ...], name: str) -> None:
    if len(widths) != len(others):
        raise WeightsError(
            f"the source's configuration has {len(widths)} widths and {len(others)}"
            f" {name}, of which each slice has one"
        )


def write_lpips(config: LpipsConfig, source: Values) -> dict[str, Any]:
    """Widths and depths of the slices."""
    del source
    return {"widths": list(config.widths), "depths": list(config.depths)}


def read_stlpips(values: Values) -> StLpipsConfig:
    """As published unless the values say otherwise; its own files say nothing."""
    default = StLpipsConfig()
    config = StLpipsConfig(
        widths=wholes(values, "widths", default.widths),
        sizes=wholes(values, "sizes", default.sizes),
    )
    _check_lengths(config.widths, config.sizes, "sizes")
    if len(config.widths) > len(default.widths):
        raise WeightsError(
            f"the source's configuration has {len(config.widths)} widths, and AlexNet"
            f" {len(default.widths)}"
        )
    return config


def write_stlpips(config: StLpipsConfig, source: Values) -> dict[str, Any]:
    """Widths and sizes of the convolutions."""
    del source
    return {"widths": list(config.widths), "sizes": list(config.sizes)}


def _run(module: Lpips | StLpips) -> object:
    image = jnp.zeros((1, 32, 32, 3))
    return module(image, image)


LPIPS = Format(
    "lpips",
    "LPIPS with VGG16 in one file (UniTok's lpips_with_vgg.pth)",
    ("net.slice1.0.weight", "lins.0.model.1.weight"),
    (Network("lpips", LpipsConfig, Lpips, _run, counts),),
    (LpipsConfig(),),
    table,
    {LpipsConfig: LPIPS_FIELDS},
    read_lpips,
    write_lpips,
    prefixes=("lpips.",),
)
STLPIPS = Format(
    "stlpips",
    "Shift-tolerant LPIPS with AlexNet (stlpips-pytorch, see convert.perceptual)",
    ("net.slice1.0.weight", "lin0.model.1.weight", "net.slice2.5.weight"),
    (Network("stlpips", StLpipsConfig, StLpips, _run, counts),),
    (StLpipsConfig(),),
    stlpips_table,
    {StLpipsConfig: STLPIPS_FIELDS},
    read_stlpips,
    write_stlpips,
)
