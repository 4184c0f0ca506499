"""LlamaGen over UniTok's codes: the arguments in its checkpoints."""

import dataclasses
import math
from typing import Any, cast, get_args

from unitoken_jax.convert.configs.fields import (
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
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models import llamagen
from unitoken_jax.models.llamagen import LlamaGenConfig, Size

LLAMAGEN: Fields = {
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
    refuse(values, "gpt_type", "c2i", "model_type", "c2i", "cls_token_num", 1)
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
    refuse(values, "n_kv_head", values.get("n_head") and heads)
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
