"""DINOv2 without registers, as torch.hub publishes it, and UniTok's discriminator.

The file does not describe itself; what is written are the arguments of the published
constructor.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import (
    Fields,
    Values,
    count,
    how,
    must,
    number,
    whole,
    written,
)
from unitoken_jax.convert.formats import Format
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
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import (
    Constant,
    Counts,
    Rule,
    Table,
    kernel_and_bias,
    norm,
    query_key_value,
)
from unitoken_jax.models.perceptual.dinov2 import Dinov2, Dinov2Config
from unitoken_jax.models.perceptual.discriminator import (
    SCALE,
    SHIFT,
    DiscriminatorConfig,
)

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
        *kernel_and_bias(f"{key}patch_embed.proj", f"{prefix}patch_embedding", CONV),
        *_block(f"{key}blocks.{{block}}", f"{prefix}layers"),
        *norm(f"{key}norm", f"{prefix}norm"),
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
        *kernel_and_bias(f"{head}.0.0", f"{ours}/conv_1", _POINT),
        *norm(f"{head}.0.1", f"{ours}/norm_1"),
        *kernel_and_bias(f"{head}.1.fn.0", f"{ours}/conv_2", CONV1D),
        *norm(f"{head}.1.fn.1", f"{ours}/norm_2"),
        *kernel_and_bias(f"{head}.2", f"{ours}/out", _POINT),
    ]


def _block(key: str, ours: str) -> Iterator[Rule]:
    attention = f"{ours}/attention"
    kernels = query_key_value(attention, "kernel")
    biases = query_key_value(attention, "bias")
    yield from norm(f"{key}.norm1", f"{ours}/attention_norm")
    yield Rule(f"{key}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attn.qkv.bias", biases, split(HEADS_BIAS))
    yield from kernel_and_bias(f"{key}.attn.proj", f"{attention}/out", HEADS_OUT)
    yield Rule(f"{key}.ls1.gamma", f"{ours}/attention_scale/scale")
    yield from norm(f"{key}.norm2", f"{ours}/mlp_norm")
    for theirs, name in (("fc1", "up"), ("fc2", "down")):
        path = f"{ours}/mlp/{name}"
        yield from kernel_and_bias(f"{key}.mlp.{theirs}", path, LINEAR)
    yield Rule(f"{key}.ls2.gamma", f"{ours}/mlp_scale/scale")


def _mlp(config: Dinov2Config) -> int:
    return int(config.hidden * (config.mlp / config.hidden))


DINOV2_FIELDS: Fields = {
    "hidden": written("embed_dim"),
    "mlp": must(_mlp, "the width times a ratio", "mlp_ratio"),
    "layers": written("depth"),
    "heads": written("num_heads"),
    "grid": written("img_size"),
    "patch": written("patch_size"),
    "norm_eps": must(1e-6, "nothing sets it"),
    **how("attention", "remat", "dtype"),
}


def read_dinov2(values: Values) -> Dinov2Config:
    """Of the arguments of DINOv2's constructor; without any, ViT-S/14."""
    default = Dinov2Config()
    hidden = whole(values, "embed_dim", default.hidden)
    patch = whole(values, "patch_size", default.patch)
    return Dinov2Config(
        hidden=hidden,
        mlp=max(1, int(hidden * number(values, "mlp_ratio", 4, most=1e6))),
        layers=count(values, "depth", default.layers),
        heads=count(values, "num_heads", default.heads),
        grid=max(1, whole(values, "img_size", default.grid * patch) // patch),
        patch=patch,
    )


def write_dinov2(config: Dinov2Config, source: Values) -> dict[str, Any]:
    """The arguments of DINOv2's constructor."""
    del source
    return {
        "embed_dim": config.hidden,
        "mlp_ratio": config.mlp / config.hidden,
        "depth": config.layers,
        "num_heads": config.heads,
        "img_size": config.grid * config.patch,
        "patch_size": config.patch,
    }


def _run(module: Dinov2) -> object:
    size = module.config.grid * module.config.patch
    return module(jnp.zeros((1, size, size, 3)))


NETWORK = Network("dinov2", Dinov2Config, Dinov2, _run, counts)
DINOV2 = Format(
    "dinov2",
    "DINOv2 ViT-S/14 (dinov2_vits14_pretrain.pth)",
    ("cls_token", "mask_token", "blocks.0.ls1.gamma"),
    (NETWORK,),
    (Dinov2Config(),),
    table,
    {Dinov2Config: DINOV2_FIELDS},
    read_dinov2,
    write_dinov2,
    prefixes=("dino.",),
)
