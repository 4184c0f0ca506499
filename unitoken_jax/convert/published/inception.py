"""Inception-v3 of the FID: pytorch-fid's and torch-fidelity's files, which agree."""

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import jax.numpy as jnp

from unitoken_jax.convert.fields import Fields, Values, usual, word
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import CONV, LINEAR
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.perceptual.inception import (
    BLOCKS,
    InceptionConfig,
    InceptionV3,
)

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


INCEPTION_FIELDS: Fields = {
    "resize": usual("tensorflow", "each library has its own resizing", "resize")
}


def read_inception(values: Values) -> InceptionConfig:
    """As published unless the values say how images are resized."""
    default = InceptionConfig()
    resize: Any = word(values, "resize", default.resize)
    known = get_args(get_type_hints(InceptionConfig)["resize"])
    if resize not in known:
        raise WeightsError(
            f"the source's configuration has resize={resize!r}; known are"
            f" {', '.join(known)}"
        )
    return InceptionConfig(resize=resize)


def write_inception(config: InceptionConfig, source: Values) -> dict[str, Any]:
    """How images are resized."""
    del source
    return {"resize": config.resize}


def _run(module: InceptionV3) -> object:
    return module(jnp.zeros((1, 32, 32, 3), jnp.uint8))


NETWORK = Network("inception", InceptionConfig, InceptionV3, _run, counts)
INCEPTION = Format(
    "inception",
    "Inception-v3 of the FID (pt_inception-2015-12-05-6726825d.pth)",
    ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.bias"),
    (NETWORK,),
    (InceptionConfig(),),
    table,
    {InceptionConfig: INCEPTION_FIELDS},
    read_inception,
    write_inception,
)
