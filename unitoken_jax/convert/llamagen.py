"""LlamaGen with UniTok's multi-codebook head: the `model` of its checkpoints.

Query, key and value are packed, and in the trunk the rotary pairs of query and key
stand side by side. The depth head has no rotation, so its order is of no matter.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from unitoken_jax.convert.layouts import (
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    Layout,
    Shape,
    chain,
    rotary_halves,
    split,
)
from unitoken_jax.convert.sources import Source
from unitoken_jax.convert.table import Counts, Rule, Table
from unitoken_jax.models.llamagen import LlamaGenConfig

_PACKED = ("query", "key", "value")
_CLASSES = "cls_embedding.embedding_table.weight"


def counts(config: LlamaGenConfig) -> Counts:
    """Blocks and codebooks, of the trunk and of the depth head."""
    return {
        "layer": config.layers,
        "codebook": config.codebooks,
        "depth_layer": config.depth_layers,
        "depth": config.codebooks - 1,
    }


def table(config: LlamaGenConfig, prefix: str = "") -> Table:
    """Rules of the whole generator.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
    """
    trunk = chain(_turned(config.hidden // config.heads), split(HEADS_IN))
    head, depth = "output", f"{prefix}depth"
    codes = "tok_embeddings.codebooks.{codebook}.weight"
    return [
        Rule(_CLASSES, f"{prefix}classes/embedding"),
        Rule(codes, f"{prefix}codes/embedding"),
        *_blocks("layers.{layer}", f"{prefix}layers", trunk),
        Rule("norm.weight", f"{prefix}norm/scale"),
        Rule(f"{head}.codebooks.{{depth}}.weight", f"{depth}/embeddings/embedding"),
        *_blocks(f"{head}.layers.{{depth_layer}}", f"{depth}/layers", split(HEADS_IN)),
        Rule(f"{head}.norm.weight", f"{depth}/norm/scale"),
        Rule(f"{head}.linear_head.weight", f"{depth}/head/kernel", LINEAR),
        Rule(f"{head}.linear_head.bias", f"{depth}/head/bias"),
    ]


def count_classes(config: LlamaGenConfig, source: Source) -> LlamaGenConfig:
    """The configuration with a row for no class if the file's table has one.

    Files trained with and without label dropout have 1001 and 1000 rows; their
    arguments do not always say which.
    """
    if _CLASSES not in source:
        return config
    rows = source.spec(_CLASSES).shape[0] - config.classes
    if rows not in (0, 1):
        return config  # of another number of classes: the shapes will say so
    dropout = config.class_dropout if rows else 0.0
    return dataclasses.replace(config, null_class=bool(rows), class_dropout=dropout)


def _blocks(key: str, ours: str, packed: Layout) -> Iterator[Rule]:
    kernels = tuple(f"{ours}/attention/{name}/kernel" for name in _PACKED)
    yield Rule(f"{key}.attention.wqkv.weight", kernels, packed)
    yield Rule(f"{key}.attention.wo.weight", f"{ours}/attention/out/kernel", HEADS_OUT)
    for theirs, name in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
        path = f"{ours}/mlp/{name}/kernel"
        yield Rule(f"{key}.feed_forward.{theirs}.weight", path, LINEAR)
    yield Rule(f"{key}.attention_norm.weight", f"{ours}/attention_norm/scale")
    yield Rule(f"{key}.ffn_norm.weight", f"{ours}/mlp_norm/scale")


def _turned(size: int) -> Layout:
    """`rotary_halves` of the first two thirds (query, key) of the first axis."""
    halves = rotary_halves(size)

    def to_ours(array: np.ndarray, shapes: Sequence[Shape]) -> tuple[np.ndarray, ...]:
        rows = 2 * len(array) // 3
        (turned,) = halves.to_ours(array[:rows], [(rows, *shapes[0][1:])])
        return (np.concatenate([turned, array[rows:]]),)

    def to_theirs(arrays: Sequence[np.ndarray]) -> np.ndarray:
        (array,) = arrays
        rows = 2 * len(array) // 3
        return np.concatenate([halves.to_theirs([array[:rows]]), array[rows:]])

    return Layout(
        f"rotary_halves({size}) of query and key",
        f"packed query, key, value; in the first two {halves.text}",
        to_ours,
        to_theirs,
    )
