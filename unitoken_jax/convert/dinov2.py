"""DINOv2 without registers, as torch.hub publishes it, and UniTok's discriminator."""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import (
    CONV,
    CONV1D,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    chain,
    split,
    squeeze,
)
from unitoken_jax.convert.table import Constant, Counts, Rule, Table
from unitoken_jax.models.perceptual.dinov2 import Dinov2Config
from unitoken_jax.models.perceptual.discriminator import (
    SCALE,
    SHIFT,
    DiscriminatorConfig,
)

_PACKED = ("query", "key", "value")
_POINT = chain(squeeze(2), LINEAR)  # a Conv1d of one position


def counts(config: Dinov2Config | DiscriminatorConfig) -> Counts:
    """Blocks of the network; of a discriminator its heads too."""
    if isinstance(config, Dinov2Config):
        return {"block": config.layers}
    return {"block": config.backbone.layers, "head": len(config.taps)}


def table(config: Dinov2Config, prefix: str = "", key: str = "") -> Table:
    """Rules of the network.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
        key: put in front of the published names.
    """
    del config
    return [
        Rule(f"{key}cls_token", f"{prefix}class_token"),
        Rule(f"{key}mask_token", f"{prefix}mask_token"),
        Rule(f"{key}pos_embed", f"{prefix}position_embedding", squeeze(0)),
        Rule(f"{key}patch_embed.proj.weight", f"{prefix}patch_embedding/kernel", CONV),
        Rule(f"{key}patch_embed.proj.bias", f"{prefix}patch_embedding/bias"),
        *_block(f"{key}blocks.{{block}}", f"{prefix}layers"),
        *_norm(f"{key}norm", f"{prefix}norm"),
    ]


def heads_table(config: DiscriminatorConfig, prefix: str = "") -> Table:
    """Rules of UniTok's discriminator (`ckpt["trainer"]["disc"]`), backbone apart.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
    """
    del config
    head, ours = "heads.{head}", f"{prefix}heads"
    like = f"{ours}/norm_1/scale"
    scale, shift = (tuple(float(x) for x in values) for values in (SCALE, SHIFT))
    return [
        Constant("x_scale", (1, 3, 1, 1), scale, like),
        Constant("x_shift", (1, 3, 1, 1), shift, like),
        Rule(f"{head}.0.0.weight", f"{ours}/conv_1/kernel", _POINT),
        Rule(f"{head}.0.0.bias", f"{ours}/conv_1/bias"),
        *_norm(f"{head}.0.1", f"{ours}/norm_1"),
        Rule(f"{head}.1.fn.0.weight", f"{ours}/conv_2/kernel", CONV1D),
        Rule(f"{head}.1.fn.0.bias", f"{ours}/conv_2/bias"),
        *_norm(f"{head}.1.fn.1", f"{ours}/norm_2"),
        Rule(f"{head}.2.weight", f"{ours}/out/kernel", _POINT),
        Rule(f"{head}.2.bias", f"{ours}/out/bias"),
    ]


def _block(key: str, ours: str) -> Iterator[Rule]:
    attention = f"{ours}/attention"
    kernels = tuple(f"{attention}/{name}/kernel" for name in _PACKED)
    biases = tuple(f"{attention}/{name}/bias" for name in _PACKED)
    yield from _norm(f"{key}.norm1", f"{ours}/attention_norm")
    yield Rule(f"{key}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attn.qkv.bias", biases, split(HEADS_BIAS))
    yield Rule(f"{key}.attn.proj.weight", f"{attention}/out/kernel", HEADS_OUT)
    yield Rule(f"{key}.attn.proj.bias", f"{attention}/out/bias")
    yield Rule(f"{key}.ls1.gamma", f"{ours}/attention_scale/scale")
    yield from _norm(f"{key}.norm2", f"{ours}/mlp_norm")
    for theirs, name in (("fc1", "up"), ("fc2", "down")):
        yield Rule(f"{key}.mlp.{theirs}.weight", f"{ours}/mlp/{name}/kernel", LINEAR)
        yield Rule(f"{key}.mlp.{theirs}.bias", f"{ours}/mlp/{name}/bias")
    yield Rule(f"{key}.ls2.gamma", f"{ours}/mlp_scale/scale")


def _norm(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/scale")
    yield Rule(f"{key}.bias", f"{ours}/bias")
