"""Inception-v3 of the FID: pytorch-fid's and torch-fidelity's files, which agree."""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import CONV, LINEAR
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.models.perceptual.inception import BLOCKS, InceptionConfig

_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_STATISTICS = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "variance",
}


def counts(config: InceptionConfig) -> Counts:
    """No counters: every block is of its own kind."""
    del config
    return {}


def table(config: InceptionConfig, prefix: str = "") -> Table:
    """Rules of the network, which has one shape only.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
    """
    del config
    rules: list[Rule | Ignored] = [
        Rule("fc.weight", f"{prefix}fc/kernel", LINEAR),
        Rule("fc.bias", f"{prefix}fc_bias"),
        Ignored("*.num_batches_tracked", "counts steps of its own training"),
    ]
    for name in _STEM:
        rules += _conv(f"Conv2d_{name}", f"{prefix}Conv2d_{name}")
    for block, branches in BLOCKS.items():
        for branch in branches:
            for name, *_ in (*branch.convs, *branch.tails):
                rules += _conv(f"{block}.{name}", f"{prefix}{block}/{name}")
    return rules


def _conv(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.conv.weight", f"{ours}/kernel", CONV)
    for theirs, name in _STATISTICS.items():
        yield Rule(f"{key}.bn.{theirs}", f"{ours}/{name}")
