"""CLIP's text tower as open_clip and UniTok name it (`text_encoder.*`)."""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import (
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.models.clip_text import ClipTextConfig

_PACKED = ("query", "key", "value")


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
        *_norm(f"{key}ln_final", f"{prefix}norm"),
        # Stored (in, out) already: it is no torch.nn.Linear.
        Rule(f"{key}text_projection", f"{prefix}projection/kernel"),
        Ignored(f"{key}attn_mask", "the causal mask"),
    ]


def _layer(key: str, ours: str) -> Iterator[Rule]:
    yield from _norm(f"{key}.ln_1", f"{ours}/attention_norm")
    yield from _norm(f"{key}.ln_2", f"{ours}/mlp_norm")
    attention = f"{ours}/attention"
    kernels = tuple(f"{attention}/{name}/kernel" for name in _PACKED)
    biases = tuple(f"{attention}/{name}/bias" for name in _PACKED)
    yield Rule(f"{key}.attn.in_proj_weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attn.in_proj_bias", biases, split(HEADS_BIAS))
    yield Rule(f"{key}.attn.out_proj.weight", f"{attention}/out/kernel", HEADS_OUT)
    yield Rule(f"{key}.attn.out_proj.bias", f"{attention}/out/bias")
    for theirs, name in (("c_fc", "up"), ("c_proj", "down")):
        yield Rule(f"{key}.mlp.{theirs}.weight", f"{ours}/mlp/{name}/kernel", LINEAR)
        yield Rule(f"{key}.mlp.{theirs}.bias", f"{ours}/mlp/{name}/bias")


def _norm(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/scale")
    yield Rule(f"{key}.bias", f"{ours}/bias")
