"""Chameleon's VQGAN: its own `vqgan.yaml`, and `vq_config` of `transformers`."""

import dataclasses
from typing import Any

from unitoken_jax.convert.configs.fields import Values, refuse
from unitoken_jax.models.vqgan import VQGANConfig


def read_vqgan(values: Values) -> VQGANConfig:
    """Of `vqgan.yaml`, as Meta ships it."""
    values = (values.get("model") or {}).get("params") or values
    network = values.get("ddconfig") or {}
    refuse(network, "double_z", False)
    default = VQGANConfig()
    names = {
        "resolution": "resolution",
        "in_channels": "in_channels",
        "out_ch": "out_channels",
        "ch": "ch",
        "ch_mult": "ch_mult",
        "num_res_blocks": "num_res_blocks",
        "attn_resolutions": "attn_resolutions",
        "z_channels": "z_channels",
        "dropout": "dropout",
    }
    found = {ours: network[name] for name, ours in names.items() if name in network}
    found |= {name: values[name] for name in ("embed_dim", "n_embed") if name in values}
    for name in ("ch_mult", "attn_resolutions"):
        if name in found:
            found[name] = tuple(found[name] or ())
    return dataclasses.replace(default, **found)


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
        "dropout": config.dropout,
    }
