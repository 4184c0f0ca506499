"""Decoders: Chameleon in three spellings, and Llama."""

import dataclasses
from typing import Any

from unitoken_jax.convert.configs.fields import (
    Fields,
    Values,
    count,
    flag,
    free,
    group,
    how,
    must,
    number,
    refuse,
    trains,
    whole,
    written,
)
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.decoder import DecoderConfig

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _even_width(config: DecoderConfig) -> int | float:
    width = config.hidden / config.heads
    return int(width) if width.is_integer() else width


_EVEN_HEADS = must(_even_width, "it divides the width among the heads")
_SHARED: Fields = {
    "vocab_size": written("vocab_size"),
    "hidden": written("hidden_size"),
    "intermediate": written("intermediate_size"),
    "layers": written("num_hidden_layers"),
    "heads": written("num_attention_heads"),
    "kv_heads": written("num_key_value_heads"),
    "rope_theta": written("rope_parameters"),
    "norm_eps": written("rms_norm_eps"),
    **trains("init_scale"),
    **how("attention", "attention_block", "remat", "quantization", "dtype"),
}
CHAMELEON: Fields = {
    **_SHARED,
    "head_dim": _EVEN_HEADS,
    "qk_norm": must(True, "a decoder without it is a Llama: llama-hf"),
    "model_parallel_size": written("model_parallel_size"),
    "swin_norm": written("swin_norm"),
    "dropout": free("transformers has none, and only training draws it"),
}
LUMINA: Fields = {
    **CHAMELEON,
    "rope_theta": written("rope_theta"),
    "dropout": written("dropout"),
}
LLAMA: Fields = {
    **_SHARED,
    "head_dim": written("head_dim"),
    "qk_norm": must(False, "a decoder with it is a Chameleon: chameleon-hf, lumina"),
    "swin_norm": must(False, "its norms stand before attention and MLP"),
    "model_parallel_size": free("without QK-norm nothing has so many rows"),
    **trains("dropout"),
}
META: Fields = {
    **CHAMELEON,
    "vocab_size": written("vocab_size"),
    "hidden": written("dim"),
    "intermediate": written("multiple_of", "ffn_dim_multiplier"),
    "layers": written("n_layers"),
    "heads": written("n_heads"),
    "kv_heads": written("n_kv_heads"),
    "rope_theta": written("rope_theta"),
    "norm_eps": written("norm_eps"),
    "qk_norm": written("qk_normalization"),
    **trains("dropout"),
}


def read_chameleon(values: Values) -> DecoderConfig:
    """Of `config.json` of UniToken, Lumina-mGPT and `transformers`."""
    refuse(values, "attention_bias", False, "mlp_bias", False, "hidden_act", "silu")
    refuse(values, "tie_word_embeddings", False)
    default = DecoderConfig()
    hidden = whole(values, "hidden_size", default.hidden)
    heads = count(values, "num_attention_heads", default.heads)
    return DecoderConfig(
        vocab_size=whole(values, "vocab_size", default.vocab_size),
        hidden=hidden,
        intermediate=whole(values, "intermediate_size", default.intermediate),
        layers=count(values, "num_hidden_layers", default.layers),
        heads=heads,
        kv_heads=whole(values, "num_key_value_heads", heads, nullable=True),
        head_dim=whole(values, "head_dim", max(1, hidden // heads), nullable=True),
        rope_theta=_rope_theta(values),
        norm_eps=number(values, "rms_norm_eps", default.norm_eps),
        model_parallel_size=count(values, "model_parallel_size", 1),
        swin_norm=flag(values, "swin_norm", False),
        dropout=number(values, "dropout", 0.0, most=1.0),
    )


def write_chameleon(config: DecoderConfig, source: Values) -> dict[str, Any]:
    """For `transformers`; the vocabulary is that which the source has."""
    ids = {name: source[name] for name in _IDS if name in source}
    return _decoder(config, source) | {
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "model_parallel_size": config.model_parallel_size,
        "swin_norm": config.swin_norm,
        "vocabulary_map": dict(source.get("vocabulary_map") or {}),
        **ids,
    }


def write_lumina(config: DecoderConfig, source: Values) -> dict[str, Any]:
    """For the published classes of Lumina-mGPT and UniToken."""
    return write_chameleon(config, source) | {
        "architectures": ["ChameleonXLLMXForConditionalGeneration"],
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "dropout": config.dropout,
        "mask_image_logits": bool(source.get("mask_image_logits", False)),
    }


def read_llama(values: Values) -> DecoderConfig:
    """Of `config.json` of a Llama: Chameleon's decoder without QK-norm."""
    missing = {"vocab_size": 32_000, "rms_norm_eps": 1e-6}  # the defaults of its class
    return dataclasses.replace(read_chameleon(missing | dict(values)), qk_norm=False)


def write_llama(config: DecoderConfig, source: Values) -> dict[str, Any]:
    """For `LlamaForCausalLM`."""
    ids = {name: source[name] for name in _IDS if name in source}
    return _decoder(config, source) | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": config.head_dim,
        **ids,
    }


def read_meta(values: Values) -> DecoderConfig:
    """Of Meta's `params.json` and `consolidate_params.json`, merged."""
    values = dict(values) | dict(group(values, "model"))
    default = DecoderConfig()
    hidden = whole(values, "dim", default.hidden, most=2**20)
    heads = count(values, "n_heads", default.heads)
    multiple = whole(values, "multiple_of", 256)
    factor = number(values, "ffn_dim_multiplier", 1, most=1e6, nullable=True)
    inner = max(1, int(factor * int(8 * hidden / 3)))
    vocabulary = whole(values, "vocab_size", 0, least=-1, nullable=True)
    return DecoderConfig(
        vocab_size=vocabulary if vocabulary > 0 else default.vocab_size,
        hidden=hidden,
        intermediate=-(-inner // multiple) * multiple,
        layers=count(values, "n_layers", default.layers),
        heads=heads,
        kv_heads=whole(values, "n_kv_heads", heads, nullable=True),
        head_dim=max(1, hidden // heads),
        rope_theta=float(number(values, "rope_theta", default.rope_theta, least=1e-3)),
        norm_eps=number(values, "norm_eps", default.norm_eps),
        qk_norm=flag(values, "qk_normalization", True),
        model_parallel_size=count(values, "model_parallel_size", 1),
        swin_norm=flag(values, "swin_norm", False),
    )


def write_meta(config: DecoderConfig, source: Values) -> dict[str, Any]:
    """For Meta's loader; its MLP width follows from a rule of theirs.

    Raises:
        WeightsError: no multiple of the rule gives the width, or the shards do not come
            out even.
    """
    del source
    shards = config.model_parallel_size
    uneven = [
        f"{name}={getattr(config, name)}"
        for name in ("vocab_size", "hidden", "intermediate", "heads", "kv_heads")
        if getattr(config, name) % shards
    ]
    if uneven:
        raise WeightsError(
            f"Meta's format cuts the model into model_parallel_size={shards} shards,"
            f" which do not come out even: {', '.join(uneven)}; use chameleon-hf"
        )
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
        "model_parallel_size": shards,
    }
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        for factor in (1.0, config.intermediate / (8 * config.hidden / 3)):
            rule = {"multiple_of": multiple, "ffn_dim_multiplier": factor}
            if read_meta(values | rule).intermediate == config.intermediate:
                return values | rule
    raise WeightsError(
        f"Meta's format computes the MLP's width from the model's, and {config.hidden}"
        f" never gives intermediate={config.intermediate}; use chameleon-hf"
    )


def _decoder(config: DecoderConfig, source: Values) -> dict[str, Any]:
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
    scaling, parameters = (
        group(values, "rope_scaling"),
        group(values, "rope_parameters"),
    )
    kinds = {
        str(kind)
        for rope in (scaling, parameters)
        for kind in (rope.get("rope_type") or rope.get("type"),)
        if kind not in (None, "default")
    }
    if kinds:
        raise WeightsError(
            f"the source's configuration scales its rotary positions ({kinds.pop()}),"
            " which none of these networks was published with and ours does not do"
        )
    refuse(values, "partial_rotary_factor", 1.0)
    named = parameters if "rope_theta" in parameters else values
    return float(number(named, "rope_theta", 10_000.0, least=1e-3, nullable=True))
