"""LlamaGen over UniTok's codes: the arguments in its checkpoints."""

import dataclasses
import math
from typing import Any, cast

from unitoken_jax.convert.configs.fields import Values
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models import llamagen
from unitoken_jax.models.llamagen import LlamaGenConfig


def read_llamagen(values: Values) -> LlamaGenConfig:
    """Of the `args` of a checkpoint, or of the fields of its model.

    `gpt_model` ("GPT-XXL") gives the size, `dim`, `n_layer` and `n_head` any other.
    """
    size = str(values.get("gpt_model", "GPT-XXL")).removeprefix("GPT-")
    try:
        default = llamagen.published(cast("llamagen.Size", size))
    except ValueError as fault:
        raise WeightsError(f"the source's gpt_model: {fault}") from fault
    books = values.get("num_codebooks", default.codebooks)
    codes = values.get("vocab_size", default.codes * default.codebooks)
    tokens = values.get("block_size")
    if tokens is None and "image_size" in values:
        tokens = (values["image_size"] // values.get("downsample_size", 16)) ** 2
    dropout = values.get("class_dropout_prob", default.class_dropout)
    return dataclasses.replace(
        default,
        hidden=values.get("dim", default.hidden),
        layers=values.get("n_layer", default.layers),
        heads=values.get("n_head", default.heads),
        multiple_of=values.get("multiple_of", default.multiple_of),
        classes=values.get("num_classes", default.classes),
        null_class=dropout > 0,
        class_dropout=dropout,
        codebooks=books,
        codes=codes // books,
        side=math.isqrt(tokens) if tokens else default.side,
        depth_layers=values.get("n_output_layer", default.depth_layers),
        rope_theta=float(values.get("rope_base", default.rope_theta)),
        norm_eps=values.get("norm_eps", default.norm_eps),
        token_dropout=values.get("token_dropout_p", default.token_dropout),
        dropout=values.get("dropout_p", default.dropout),
    )


def write_llamagen(config: LlamaGenConfig, source: Values) -> dict[str, Any]:
    """The fields of the published model's arguments."""
    del source
    return {
        "dim": config.hidden,
        "n_layer": config.layers,
        "n_head": config.heads,
        "multiple_of": config.multiple_of,
        "num_classes": config.classes,
        "class_dropout_prob": config.class_dropout,
        "num_codebooks": config.codebooks,
        "vocab_size": config.codes * config.codebooks,
        "block_size": config.tokens,
        "n_output_layer": config.depth_layers,
        "rope_base": config.rope_theta,
        "norm_eps": config.norm_eps,
        "token_dropout_p": config.token_dropout,
        "dropout_p": config.dropout,
    }
