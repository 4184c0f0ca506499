"""Chameleon's VQGAN: its own `vqgan.yaml`, and `vq_config` of `transformers`."""

from typing import Any

from unitoken_jax.convert.configs.fields import (
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
from unitoken_jax.models.vqgan import VQGANConfig

_TRAINING: Fields = trains(
    "beta",
    "l1_weight",
    "l2_weight",
    "codebook_init",
    "codebook_scale",
    "revival_weight",
)
VQGAN: Fields = {
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
VQ_CONFIG: Fields = {
    **VQGAN,
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
    refuse(network, "double_z", False, "attn_type", "vanilla")
    refuse(network, "resamp_with_conv", True, "give_pre_end", False, "tanh_out", False)
    refuse(network, "use_linear_attn", False)
    refuse(values, "remap", None)
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
