"""CLIP's text tower as open_clip and UniTok name it (`text_encoder.*`)."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import Fields, Values, count, how, must, whole, written
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import (
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import (
    Counts,
    Ignored,
    Rule,
    Table,
    kernel_and_bias,
    norm,
    query_key_value,
)
from unitoken_jax.models.clip_text import ClipText, ClipTextConfig


def counts(config: ClipTextConfig) -> Counts:
    """The number of layers."""
    return {"text_layer": config.layers}


def table(config: ClipTextConfig, prefix: str = "", key: str = "") -> Table:
    """Rules of the tower.

    Args:
        config: the tower's configuration.
        prefix: put in front of our paths.
        key: put in front of the published names.
    """
    del config
    return [
        Rule(f"{key}token_embedding.weight", f"{prefix}token_embedding/embedding"),
        Rule(f"{key}positional_embedding", f"{prefix}position_embedding"),
        *_layer(f"{key}transformer.resblocks.{{text_layer}}", f"{prefix}layers"),
        *norm(f"{key}ln_final", f"{prefix}norm"),
        # Stored (in, out) already: it is no torch.nn.Linear.
        Rule(f"{key}text_projection", f"{prefix}projection/kernel"),
        Ignored(f"{key}attn_mask", "the causal mask"),
    ]


def _layer(key: str, ours: str) -> Iterator[Rule]:
    yield from norm(f"{key}.ln_1", f"{ours}/attention_norm")
    yield from norm(f"{key}.ln_2", f"{ours}/mlp_norm")
    attention = f"{ours}/attention"
    kernels = query_key_value(attention, "kernel")
    biases = query_key_value(attention, "bias")
    yield Rule(f"{key}.attn.in_proj_weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attn.in_proj_bias", biases, split(HEADS_BIAS))
    yield from kernel_and_bias(f"{key}.attn.out_proj", f"{attention}/out", HEADS_OUT)
    for theirs, name in (("c_fc", "up"), ("c_proj", "down")):
        path = f"{ours}/mlp/{name}"
        yield from kernel_and_bias(f"{key}.mlp.{theirs}", path, LINEAR)


TEXT_FIELDS: Fields = {
    "vocab_size": written("text_vocab_size"),
    "length": written("text_context_length"),
    "hidden": written("text_width"),
    "layers": written("text_layers"),
    "heads": written("text_heads"),
    "mlp": must(lambda config: 4 * config.hidden, "it is four times the width"),
    "embed": written("embed_dim"),
    "norm_eps": must(1e-5, "PyTorch's own, which nothing sets"),
    **how("attention", "remat", "dtype"),
}


def read_clip_text(values: Values) -> ClipTextConfig:
    """The fields of UniTok's `args` that are of the text tower."""
    default = ClipTextConfig()
    width = whole(values, "text_width", default.hidden)
    return ClipTextConfig(
        vocab_size=whole(values, "text_vocab_size", default.vocab_size),
        length=whole(values, "text_context_length", default.length),
        hidden=width,
        layers=count(values, "text_layers", default.layers),
        heads=count(values, "text_heads", default.heads),
        mlp=4 * width,
        embed=whole(values, "embed_dim", default.embed),
    )


def write_clip_text(config: ClipTextConfig, source: Values) -> dict[str, Any]:
    """The fields of UniTok's `args` that are of the text tower."""
    return dict(source) | {
        "text_width": config.hidden,
        "text_heads": config.heads,
        "text_layers": config.layers,
        "text_vocab_size": config.vocab_size,
        "text_context_length": config.length,
        "embed_dim": config.embed,
    }


def _run(module: ClipText) -> object:
    return module(jnp.zeros((1, module.config.length), jnp.int32))


NETWORK = Network("clip_text", ClipTextConfig, ClipText, _run, counts)
CLIP_TEXT = Format(
    "clip-text",
    "CLIP's text tower as open_clip and UniTok name it",
    ("text_projection", "positional_embedding"),
    (NETWORK,),
    (ClipTextConfig(),),
    table,
    {ClipTextConfig: TEXT_FIELDS},
    read_clip_text,
    write_clip_text,
    prefixes=("text_encoder.", "text."),
)
