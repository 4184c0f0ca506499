"""Published configurations ↔ ours: `config.json` of the hub, `params.json` of Meta.

Fields that say how to compute rather than what (attention backend, rematerialisation,
type) keep our defaults. What our network cannot do is refused, not dropped.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models import llamagen
from unitoken_jax.models.chameleon import ChameleonConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vqgan import VQGANConfig

Values = Mapping[str, Any]
_IMAGE_TOKEN = {"<image>": 8711}  # all that transformers needs of the vocabulary


def read_chameleon(values: Values) -> ChameleonConfig:
    """Of `config.json` of UniToken, Lumina-mGPT and `transformers`."""
    _refuse(values, "attention_bias", False, "mlp_bias", False, "hidden_act", "silu")
    default = ChameleonConfig()
    hidden = values.get("hidden_size", default.hidden)
    heads = values.get("num_attention_heads", default.heads)
    return ChameleonConfig(
        vocab_size=values.get("vocab_size", default.vocab_size),
        hidden=hidden,
        intermediate=values.get("intermediate_size", default.intermediate),
        layers=values.get("num_hidden_layers", default.layers),
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or hidden // heads,
        rope_theta=_rope_theta(values),
        norm_eps=values.get("rms_norm_eps", default.norm_eps),
        model_parallel_size=values.get("model_parallel_size", 1),
        swin_norm=values.get("swin_norm", False),
        dropout=values.get("dropout", 0.0),
    )


def write_chameleon(config: ChameleonConfig, source: Values) -> dict[str, Any]:
    """For `transformers`; the vocabulary is the source's, where it has one.

    Raises:
        WeightsError: a decoder without QK-norm, which is a Llama, or with heads of
            another width than theirs.
    """
    if not config.qk_norm:
        raise WeightsError("a decoder without QK-norm is no Chameleon; use llama-hf")
    _check_heads(config)
    return _decoder(config, source) | {
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "model_parallel_size": config.model_parallel_size,
        "swin_norm": config.swin_norm,
        "vocabulary_map": source.get("vocabulary_map") or _IMAGE_TOKEN,
    }


def write_lumina(config: ChameleonConfig, source: Values) -> dict[str, Any]:
    """For the published classes of Lumina-mGPT and UniToken."""
    return write_chameleon(config, source) | {
        "architectures": ["ChameleonXLLMXForConditionalGeneration"],
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "dropout": config.dropout,
        "mask_image_logits": False,
    }


def read_llama(values: Values) -> ChameleonConfig:
    """Of `config.json` of a Llama: Chameleon's decoder without QK-norm."""
    _refuse(values, "tie_word_embeddings", False)
    missing = {"vocab_size": 32_000, "rms_norm_eps": 1e-6}  # the defaults of its class
    return dataclasses.replace(read_chameleon(missing | dict(values)), qk_norm=False)


def write_llama(config: ChameleonConfig, source: Values) -> dict[str, Any]:
    """For `LlamaForCausalLM`.

    Raises:
        WeightsError: a decoder that does more than Llama.
    """
    if config.qk_norm or config.swin_norm:
        raise WeightsError(
            "a decoder with QK-norm or norms after its layers is no Llama; use"
            " chameleon-hf or lumina"
        )
    return _decoder(config, source) | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": config.head_dim,
    }


def read_unitoken(values: Values) -> UniTokenConfig:
    """Of `config.json` of UniToken, which does not describe its image tower.

    Files written by `write_unitoken` do, in `vision_config`; others have SO400M/14.
    """
    vision = values.get("vision_config")
    codes = [
        token
        for name, token in (values.get("vocabulary_map") or {}).items()
        if name.startswith("IMGIMG")
    ]
    default = UniTokenConfig()
    return UniTokenConfig(
        decoder=read_chameleon(values),
        vision=_read_siglip_vision(vision) if vision else default.vision,
        z_loss=values.get("z_loss_weight", default.z_loss),
        first_image_code=min(codes, default=default.first_image_code),
        last_image_code=max(codes, default=default.last_image_code),
        mask_image_logits=values.get("mask_image_logits", False),
    )


def write_unitoken(config: UniTokenConfig, source: Values) -> dict[str, Any]:
    """For the published class of UniToken, whose image tower it adds."""
    values = write_lumina(config.decoder, source) | {
        "z_loss_weight": config.z_loss,
        "mask_image_logits": config.mask_image_logits,
    }
    if config.vision is not None:
        values["vision_config"] = _write_siglip_vision(config.vision)
    return values


def read_siglip(values: Values) -> SiglipConfig | SiglipVisionConfig:
    """Of `config.json` of a `SiglipModel` or a `SiglipVisionModel`."""
    if not values:
        return SiglipVisionConfig()
    if "vision_config" not in values:
        return _read_siglip_vision(values)
    vision = _read_siglip_vision(values["vision_config"])
    text = values.get("text_config", {})
    _refuse(text, "hidden_act", "gelu_pytorch_tanh")
    hidden = text.get("hidden_size", 768)
    return SiglipConfig(
        vision=vision,
        text=SiglipTextConfig(
            vocab_size=text.get("vocab_size", 32_000),
            length=text.get("max_position_embeddings", 64),
            hidden=hidden,
            mlp=text.get("intermediate_size", 3072),
            layers=text.get("num_hidden_layers", 12),
            heads=text.get("num_attention_heads", 12),
            pad=text.get("pad_token_id", 1),
            norm_eps=text.get("layer_norm_eps", 1e-6),
        ),
        embed=text.get("projection_size") or hidden,
    )


def write_siglip(
    config: SiglipConfig | SiglipVisionConfig, source: Values
) -> dict[str, Any]:
    """For `SiglipModel` or `SiglipVisionModel`."""
    del source
    if isinstance(config, SiglipVisionConfig):
        return _write_siglip_vision(config) | {"architectures": ["SiglipVisionModel"]}
    text = {
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.length,
        "hidden_size": config.text.hidden,
        "intermediate_size": config.text.mlp,
        "num_hidden_layers": config.text.layers,
        "num_attention_heads": config.text.heads,
        "pad_token_id": config.text.pad,
        "layer_norm_eps": config.text.norm_eps,
        "projection_size": config.embed,
        "hidden_act": "gelu_pytorch_tanh",
        "model_type": "siglip_text_model",
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": text,
        "vision_config": _write_siglip_vision(config.vision),
    }


def _read_siglip_vision(values: Values) -> SiglipVisionConfig:
    """What is absent has the defaults of the class in `transformers`."""
    _refuse(values, "hidden_act", "gelu_pytorch_tanh", "num_channels", 3)
    return SiglipVisionConfig(
        hidden=values.get("hidden_size", 768),
        mlp=values.get("intermediate_size", 3072),
        layers=values.get("num_hidden_layers", 12),
        heads=values.get("num_attention_heads", 12),
        image=values.get("image_size", 224),
        patch=values.get("patch_size", 16),
        head=values.get("vision_use_head", True),
        norm_eps=values.get("layer_norm_eps", 1e-6),
    )


def _write_siglip_vision(config: SiglipVisionConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image,
        "patch_size": config.patch,
        "vision_use_head": config.head,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu_pytorch_tanh",
        "num_channels": 3,
        "model_type": "siglip_vision_model",
    }


def read_meta(values: Values) -> ChameleonConfig:
    """Of Meta's `params.json` and `consolidate_params.json`, merged."""
    values = dict(values) | dict(values.get("model") or {})
    default = ChameleonConfig()
    hidden = values.get("dim", default.hidden)
    heads = values.get("n_heads", default.heads)
    multiple = values.get("multiple_of", 256)
    inner = int((values.get("ffn_dim_multiplier") or 1) * int(8 * hidden / 3))
    vocabulary = values.get("vocab_size") or 0
    return ChameleonConfig(
        vocab_size=vocabulary if vocabulary > 0 else default.vocab_size,
        hidden=hidden,
        intermediate=-(-inner // multiple) * multiple,
        layers=values.get("n_layers", default.layers),
        heads=heads,
        kv_heads=values.get("n_kv_heads") or heads,
        head_dim=hidden // heads,
        rope_theta=float(values.get("rope_theta", default.rope_theta)),
        norm_eps=values.get("norm_eps", default.norm_eps),
        qk_norm=values.get("qk_normalization", True),
        model_parallel_size=values.get("model_parallel_size", 1),
        swin_norm=values.get("swin_norm", False),
    )


def write_meta(config: ChameleonConfig, source: Values) -> dict[str, Any]:
    """For Meta's loader; its MLP width follows from a rule of theirs.

    Raises:
        WeightsError: no multiple of the rule gives the width, or the heads are of
            another width than theirs.
    """
    del source
    _check_heads(config)
    values = {
        "dim": config.hidden,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "qk_normalization": config.qk_norm,
        "swin_norm": config.swin_norm,
        "model_parallel_size": config.model_parallel_size,
    }
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        for factor in (1.0, config.intermediate / (8 * config.hidden / 3)):
            rule = {"multiple_of": multiple, "ffn_dim_multiplier": factor}
            if read_meta(values | rule).intermediate == config.intermediate:
                return values | rule
    raise WeightsError(
        f"Meta's format computes the MLP's width from the model's, and {config.hidden}"
        f" never gives {config.intermediate}; use chameleon-hf"
    )


def read_vqgan(values: Values) -> VQGANConfig:
    """Of `vqgan.yaml`, as Meta ships it."""
    values = (values.get("model") or {}).get("params") or values
    network = values.get("ddconfig") or {}
    _refuse(network, "double_z", False)
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


def _check_heads(config: ChameleonConfig) -> None:
    """Chameleon's published code does not store the width of a head but divides."""
    if config.heads * config.head_dim != config.hidden:
        raise WeightsError(
            f"Chameleon's heads share the width evenly, {config.hidden} over"
            f" {config.heads}, and this decoder has heads of {config.head_dim}; no"
            " published code loads it"
        )


def _decoder(config: ChameleonConfig, source: Values) -> dict[str, Any]:
    """The fields that Chameleon and Llama share in `transformers`."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": source.get("max_position_embeddings", 4096),
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }


def _rope_theta(values: Values) -> float:
    scaling = values.get("rope_scaling") or {}
    parameters = values.get("rope_parameters") or {}
    kinds = {
        kind
        for rope in (scaling, parameters)
        for kind in (rope.get("rope_type") or rope.get("type"),)
        if kind not in (None, "default")
    }
    if kinds:
        raise WeightsError(
            f"the source's configuration scales its rotary positions ({kinds.pop()}),"
            " which none of these networks was published with and ours does not do"
        )
    theta = parameters.get("rope_theta", values.get("rope_theta", 10_000.0))
    return float(theta)


def _refuse(values: Values, *expected: Any) -> None:
    """Refuse a field whose value our network cannot follow (name, value, ...)."""
    for name, value in zip(expected[::2], expected[1::2], strict=True):
        if values.get(name, value) != value:
            raise WeightsError(
                f"the source's configuration has {name}={values[name]!r}; our network"
                f" has {value!r} only, and would compute something else"
            )
