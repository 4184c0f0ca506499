"""LlamaGen with UniTok's multi-codebook head: the `model` of its checkpoints.

Query, key and value are packed, and in the trunk the rotary pairs of query and key
stand side by side. The depth head has no rotation, so its order is of no matter.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast, get_args

import numpy as np

from unitoken_jax.convert.fields import (
    Fields,
    Values,
    count,
    how,
    number,
    refuse,
    trains,
    whole,
    word,
    written,
)
from unitoken_jax.convert.files.sinks import write_weights
from unitoken_jax.convert.files.sources import Source
from unitoken_jax.convert.formats import Format
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
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import (
    Counts,
    Rule,
    Table,
    kernel_and_bias,
    query_key_value,
)
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models import llamagen
from unitoken_jax.models.llamagen import LlamaGen, LlamaGenConfig, Size

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
        *kernel_and_bias(f"{head}.linear_head", f"{depth}/head", LINEAR),
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
    kernels = query_key_value(f"{ours}/attention", "kernel")
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


LLAMAGEN_FIELDS: Fields = {
    "hidden": written("dim"),
    "layers": written("n_layer"),
    "heads": written("n_head"),
    "intermediate": written("multiple_of", "ffn_dim_multiplier"),
    "multiple_of": written("multiple_of"),
    "classes": written("num_classes"),
    "null_class": written("class_dropout_prob"),
    "codebooks": written("num_codebooks"),
    "codes": written("vocab_size"),
    "side": written("block_size", "image_size"),
    "depth_layers": written("n_output_layer", "num_output_layer"),
    "rope_theta": written("rope_base"),
    "norm_eps": written("norm_eps"),
    "class_dropout": written("class_dropout_prob"),
    "token_dropout": written("token_dropout_p"),
    "dropout": written("resid_dropout_p", "ffn_dropout_p", "dropout_p"),
    **trains("init_scale"),
    **how("loss_chunk", "attention", "remat", "dtype"),
}
_NULL_CLASS = 0.1  # the class's own default; any above 0 gives its table the row


def read_llamagen(values: Values) -> LlamaGenConfig:
    """Of the `args` of a checkpoint, or of the fields of its model.

    `gpt_model` ("GPT-XXL") gives the size, `dim`, `n_layer` and `n_head` any other. The
    training script says `num_output_layer` and `dropout_p`, the model's own arguments
    `n_output_layer` and `resid_dropout_p`.
    """
    refuse(values, gpt_type="c2i", model_type="c2i", cls_token_num=1)
    size = word(values, "gpt_model", "GPT-XXL").removeprefix("GPT-")
    if size not in get_args(Size):
        sizes = ", ".join(f"GPT-{name}" for name in get_args(Size))
        raise WeightsError(
            f"the source's gpt_model: LlamaGen of classes has no size {size!r}; known"
            f" are {sizes}"
        )
    default = llamagen.published(cast("Size", size))
    books = count(values, "num_codebooks", default.codebooks)
    codes = whole(values, "vocab_size", default.codes * books, least=books)
    tokens = whole(values, "block_size", 0, least=0, nullable=True)
    if not tokens and values.get("image_size") is not None:
        stride = whole(values, "downsample_size", 16)
        tokens = (whole(values, "image_size", 256, most=2**20) // stride) ** 2
    side = math.isqrt(tokens) if tokens else default.side
    if tokens and side**2 != tokens:
        raise WeightsError(
            f"the source's configuration has block_size={tokens}, which is no square"
        )
    heads = count(values, "n_head", default.heads)
    refuse(values, n_kv_head=values.get("n_head") and heads)
    layers = _either(values, "n_output_layer", "num_output_layer")
    dropout = number(values, "class_dropout_prob", default.class_dropout, most=1.0)
    config = dataclasses.replace(
        default,
        hidden=whole(values, "dim", default.hidden),
        layers=count(values, "n_layer", default.layers),
        heads=heads,
        multiple_of=whole(values, "multiple_of", default.multiple_of),
        classes=whole(values, "num_classes", default.classes),
        null_class=dropout > 0,
        class_dropout=dropout,
        codebooks=books,
        codes=codes // books,
        side=side,
        depth_layers=count(values, layers, default.depth_layers),
        rope_theta=float(number(values, "rope_base", default.rope_theta, least=1e-3)),
        norm_eps=number(values, "norm_eps", default.norm_eps),
        token_dropout=number(values, "token_dropout_p", default.token_dropout),
        dropout=_dropout(values, default.dropout),
    )
    factor = number(values, "ffn_dim_multiplier", 1, most=1e6, nullable=True)
    if factor == 1:
        return config
    return dataclasses.replace(config, intermediate=_inner(config, factor))


def _either(values: Values, first: str, second: str) -> str:
    """Which of two names of one field the values have; they may not differ."""
    if first in values and second in values and values[first] != values[second]:
        raise WeightsError(
            f"the source's configuration has {first}={values[first]!r} and"
            f" {second}={values[second]!r}, which are one field"
        )
    return first if first in values else second


def _dropout(values: Values, default: float) -> float:
    """Rate of the residual dropout; beside stochastic depth theirs is 0."""
    if number(values, "drop_path_rate", 0.0):
        return 0.0
    name = "resid_dropout_p" if "resid_dropout_p" in values else "dropout_p"
    return number(values, name, default)


def _inner(config: LlamaGenConfig, factor: float) -> int:
    """Inner width of the MLPs by the published rule."""
    inner = max(1, int(factor * int(8 * config.hidden / 3)))
    return -(-inner // config.multiple_of) * config.multiple_of


def write_llamagen(config: LlamaGenConfig, source: Values) -> dict[str, Any]:
    """The fields of the published model's arguments, and of its training script's.

    Raises:
        WeightsError: no rule of theirs gives the width of the MLPs.
    """
    del source
    values = {
        "model_type": "c2i",
        "gpt_type": "c2i",
        "dim": config.hidden,
        "n_layer": config.layers,
        "n_head": config.heads,
        "num_classes": config.classes,
        "class_dropout_prob": config.class_dropout
        or (_NULL_CLASS if config.null_class else 0.0),
        "cls_token_num": 1,
        "num_codebooks": config.codebooks,
        "vocab_size": config.codes * config.codebooks,
        "block_size": config.tokens,
        "image_size": 16 * config.side,
        "downsample_size": 16,
        "n_output_layer": config.depth_layers,
        "num_output_layer": config.depth_layers,
        "rope_base": config.rope_theta,
        "norm_eps": config.norm_eps,
        "token_dropout_p": config.token_dropout,
        "resid_dropout_p": config.dropout,
        "ffn_dropout_p": config.dropout,
        "dropout_p": config.dropout,
        **_width_rule(config),
    }
    for size in get_args(Size):
        shape = llamagen.published(size)
        if all(
            getattr(shape, name) == getattr(config, name)
            for name in ("hidden", "layers", "heads")
        ):
            values["gpt_model"] = f"GPT-{size}"
    return values


def _width_rule(config: LlamaGenConfig) -> dict[str, Any]:
    """The arguments from which the width of the MLPs follows."""
    wanted = config.blocks(1).intermediate
    multiples = (config.multiple_of, 256, 128, 64, 32, 16, 8, 4, 2, 1)
    for multiple in multiples:
        rounded = dataclasses.replace(config, multiple_of=multiple)
        for factor in (1, wanted / (8 * config.hidden / 3)):
            if _inner(rounded, factor) == wanted:
                rule = {"multiple_of": multiple}
                return rule if factor == 1 else rule | {"ffn_dim_multiplier": factor}
    raise WeightsError(
        f"LlamaGen computes the MLP's width from the model's, and hidden="
        f"{config.hidden} never gives intermediate={wanted}"
    )


NETWORK = Network("llamagen", LlamaGenConfig, LlamaGen, LlamaGen.initialize, counts)
LLAMAGEN = Format(
    "llamagen",
    "LlamaGen over UniTok's codes (FoundationVision/UniTok)",
    ("cls_embedding.embedding_table.weight", "output.linear_head.weight"),
    (NETWORK,),
    (LlamaGenConfig(),),
    table,
    {LlamaGenConfig: LLAMAGEN_FIELDS},
    read_llamagen,
    write_llamagen,
    count_classes,
    write=partial(write_weights, wrap=("model",), beside="args"),
)
