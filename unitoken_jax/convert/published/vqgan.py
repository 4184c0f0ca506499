"""Chameleon's VQGAN: `vqgan.ckpt` beside `vqgan.yaml`, or part of `transformers`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import (
    Fields,
    Values,
    count,
    free,
    group,
    how,
    must,
    number,
    refuse,
    trains,
    whole,
    wholes,
    written,
)
from unitoken_jax.convert.files.sinks import write_weights
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import CONV
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import (
    Counts,
    Ignored,
    Rule,
    Table,
    kernel_and_bias,
    norm,
)
from unitoken_jax.models.vqgan import VQGAN, VQGANConfig

_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "out"}


def counts(config: VQGANConfig) -> Counts:
    """No counters: what a level holds depends on the level."""
    del config
    return {}


def table(config: VQGANConfig, prefix: str = "") -> Table:
    """Rules of the whole network, encoder and decoder.

    Args:
        config: the network's configuration.
        prefix: put in front of our paths.
    """
    rules: list[Rule | Ignored] = [
        Rule("quantize.embedding.weight", f"{prefix}codebook"),
        *kernel_and_bias("quant_conv", f"{prefix}quant_conv", CONV),
        *kernel_and_bias("post_quant_conv", f"{prefix}post_quant_conv", CONV),
    ]
    last = len(config.widths) - 1
    for half, direction in (("encoder", "down"), ("decoder", "up")):
        ours = f"{prefix}{half}"
        for name in ("conv_in", "conv_out"):
            rules += kernel_and_bias(f"{half}.{name}", f"{ours}/{name}", CONV)
        rules += norm(f"{half}.norm_out", f"{ours}/norm_out")
        for block in ("block_1", "block_2"):
            rules += _block(
                f"{half}.mid.{block}", f"{ours}/middle/{block}", shortcut=False
            )
        rules += _attention(f"{half}.mid.attn_1", f"{ours}/middle/attention_1")
        for level in range(last + 1):
            rules += _level(config, half, direction, level, ours)
            resampled = level < last if half == "encoder" else level > 0
            if resampled:
                key = f"{half}.{direction}.{level}.{direction}sample.conv"
                rules += kernel_and_bias(key, f"{ours}/{direction}sample_{level}", CONV)
    rules.append(Ignored("loss.*", "discriminator and perceptual loss of its training"))
    return rules


def _level(
    config: VQGANConfig, half: str, direction: str, level: int, ours: str
) -> Iterator[Rule]:
    widths = config.widths
    if half == "encoder":
        entering = widths[level - 1] if level else config.ch
        blocks = config.num_res_blocks
    else:
        entering = widths[min(level + 1, len(widths) - 1)]
        blocks = config.num_res_blocks + 1
    for i in range(blocks):
        key, path = f"{half}.{direction}.{level}", f"{ours}/{direction}_{level}"
        shortcut = i == 0 and entering != widths[level]
        yield from _block(f"{key}.block.{i}", f"{path}/block_{i}", shortcut=shortcut)
        if config.attends(level):
            yield from _attention(f"{key}.attn.{i}", f"{path}/attention_{i}")


def _block(key: str, path: str, *, shortcut: bool) -> Iterator[Rule]:
    for i in (1, 2):
        yield from norm(f"{key}.norm{i}", f"{path}/norm_{i}")
        yield from kernel_and_bias(f"{key}.conv{i}", f"{path}/conv_{i}", CONV)
    if shortcut:
        yield from kernel_and_bias(f"{key}.nin_shortcut", f"{path}/shortcut", CONV)


def _attention(key: str, path: str) -> Iterator[Rule]:
    yield from norm(f"{key}.norm", f"{path}/norm")
    for theirs, ours in _ATTENTION.items():
        yield from kernel_and_bias(f"{key}.{theirs}", f"{path}/{ours}", CONV)


_TRAINING: Fields = trains(
    "beta",
    "quantization_weight",
    "quantizes",
    "l1_weight",
    "l2_weight",
    "codebook_init",
    "codebook_scale",
    "residual_init",
    "revival_weight",
)
VQGAN_FIELDS: Fields = {
    "resolution": written("ddconfig.resolution"),
    "in_channels": written("ddconfig.in_channels"),
    "out_channels": written("ddconfig.out_ch"),
    "ch": written("ddconfig.ch"),
    "ch_mult": written("ddconfig.ch_mult"),
    "num_res_blocks": written("ddconfig.num_res_blocks"),
    "attn_resolutions": written("ddconfig.attn_resolutions"),
    "z_channels": written("ddconfig.z_channels"),
    "embed_dim": written("embed_dim"),
    "n_embed": written("n_embed"),
    "num_groups": must(32, "its GroupNorm has 32 groups whatever the configuration"),
    "dropout": written("ddconfig.dropout"),
    **_TRAINING,
    **how("search_chunk", "dtype"),
}
VQ_CONFIG_FIELDS: Fields = {
    **VQGAN_FIELDS,
    "resolution": written("resolution"),
    "in_channels": written("in_channels"),
    "out_channels": free("there is no decoder in it"),
    "ch": written("base_channels"),
    "ch_mult": written("channel_multiplier"),
    "num_res_blocks": written("num_res_blocks"),
    "attn_resolutions": written("attn_resolutions"),
    "z_channels": written("latent_channels"),
    "n_embed": written("num_embeddings"),
    "dropout": written("dropout"),
}


def read_vqgan(values: Values) -> VQGANConfig:
    """Of `vqgan.yaml`, as Meta ships it."""
    values = group(group(values, "model"), "params") or values
    network = group(values, "ddconfig")
    refuse(network, double_z=False, attn_type="vanilla")
    refuse(network, resamp_with_conv=True, give_pre_end=False, tanh_out=False)
    refuse(network, use_linear_attn=False)
    refuse(values, remap=None)
    default = VQGANConfig()
    return VQGANConfig(
        resolution=whole(network, "resolution", default.resolution),
        in_channels=whole(network, "in_channels", default.in_channels),
        out_channels=whole(network, "out_ch", default.out_channels),
        ch=whole(network, "ch", default.ch),
        ch_mult=wholes(network, "ch_mult", default.ch_mult, most=4096),
        num_res_blocks=count(network, "num_res_blocks", default.num_res_blocks),
        attn_resolutions=wholes(
            network, "attn_resolutions", default.attn_resolutions, nullable=True
        ),
        z_channels=whole(network, "z_channels", default.z_channels),
        embed_dim=whole(values, "embed_dim", default.embed_dim),
        n_embed=whole(values, "n_embed", default.n_embed),
        dropout=number(network, "dropout", default.dropout, most=1.0),
    )


def write_vqgan(config: VQGANConfig, source: Values) -> dict[str, Any]:
    """The contents of a `vqgan.yaml`."""
    del source
    network = {
        "double_z": False,
        "z_channels": config.z_channels,
        "resolution": config.resolution,
        "in_channels": config.in_channels,
        "out_ch": config.out_channels,
        "ch": config.ch,
        "ch_mult": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": list(config.attn_resolutions),
        "dropout": config.dropout,
    }
    return {
        "embed_dim": config.embed_dim,
        "n_embed": config.n_embed,
        "ddconfig": network,
    }


def write_vq_config(config: VQGANConfig) -> dict[str, Any]:
    """The `vq_config` of `transformers`' Chameleon."""
    return {
        "base_channels": config.ch,
        "channel_multiplier": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "latent_channels": config.z_channels,
        "embed_dim": config.embed_dim,
        "num_embeddings": config.n_embed,
        "resolution": config.resolution,
        "attn_resolutions": list(config.attn_resolutions),
        "in_channels": config.in_channels,
        "double_latent": False,
        "attn_type": "vanilla",
        "dropout": config.dropout,
    }


def _run(module: VQGAN) -> object:
    size = module.config.resolution
    return module(jnp.zeros((1, size, size, module.config.in_channels)))


NETWORK = Network("vqgan", VQGANConfig, VQGAN, _run, counts)
VQGAN_CKPT = Format(
    "vqgan",
    "Chameleon's image tokenizer: vqgan.ckpt beside vqgan.yaml",
    ("encoder.conv_in.weight", "quantize.embedding.weight"),
    (NETWORK,),
    (VQGANConfig(),),
    table,
    {VQGANConfig: VQGAN_FIELDS},
    read_vqgan,
    write_vqgan,
    write=partial(write_weights, wrap=("state_dict",), beside=".yaml"),
)
