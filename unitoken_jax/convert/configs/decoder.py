"""Decoders: Chameleon in three spellings, and Llama."""

import dataclasses
from typing import Any

from unitoken_jax.convert.configs.fields import Values, refuse
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.chameleon import ChameleonConfig

_IMAGE_TOKEN = {"<image>": 8711}  # all that transformers needs of the vocabulary


def read_chameleon(values: Values) -> ChameleonConfig:
    """Of `config.json` of UniToken, Lumina-mGPT and `transformers`."""
    refuse(values, "attention_bias", False, "mlp_bias", False, "hidden_act", "silu")
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
    refuse(values, "tie_word_embeddings", False)
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
