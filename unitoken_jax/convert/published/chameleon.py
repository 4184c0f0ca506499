"""Chameleon's decoder with the names of Hugging Face, and Llama's.

`table` is UniToken's and Lumina-mGPT's (one QK-norm row per model-parallel shard),
`table_hf` that of `transformers` (one row per head). Without QK-norm the first is
Llama's in `transformers`. Meta's own files are in `chameleon_meta.py`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from unitoken_jax.convert.fields import (
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
from unitoken_jax.convert.formats import Format, ImageTokenizer
from unitoken_jax.convert.layouts import (
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    SAME,
    Layout,
    repeated_rows,
)
from unitoken_jax.convert.networks import Ids, Network
from unitoken_jax.convert.published import vqgan
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.decoder import Decoder, DecoderConfig
from unitoken_jax.models.vqgan import VQGANConfig


def counts(config: DecoderConfig) -> Counts:
    """The number of layers."""
    return {"layer": config.layers}


def table(config: DecoderConfig, prefix: str = "") -> Table:
    """Rules of the published UniToken, Lumina-mGPT and (without QK-norm) Llama.

    Args:
        config: the decoder's configuration.
        prefix: put in front of our paths.
    """
    return [*_hugging_face(config, prefix, SAME, SAME), *_IGNORED]


def table_hf(config: DecoderConfig, prefix: str = "") -> Table:
    """Rules of `ChameleonForConditionalGeneration` in `transformers`.

    Args:
        config: the decoder's configuration.
        prefix: put in front of our paths.
    """
    query, key = repeated_rows(config.heads), repeated_rows(config.kv_heads)
    return [*_hugging_face(config, prefix, query, key), *_IGNORED]


_IGNORED = (
    Ignored("*.rotary_emb.inv_freq", "computed from the configuration"),
    Ignored("model.vqmodel.*", "the image tokenizer, which is the format vqgan"),
)


def _hugging_face(
    config: DecoderConfig, prefix: str, query_rows: Layout, key_rows: Layout
) -> Iterator[Rule]:
    """The rules that all files with Hugging Face names share."""
    layer, ours = "model.layers.{layer}", f"{prefix}layers"
    yield Rule("model.embed_tokens.weight", f"{prefix}embedding/embedding")
    for theirs, name, layout in (
        ("q", "query", HEADS_IN),
        ("k", "key", HEADS_IN),
        ("v", "value", HEADS_IN),
        ("o", "out", HEADS_OUT),
    ):
        key = f"{layer}.self_attn.{theirs}_proj.weight"
        yield Rule(key, f"{ours}/attention/{name}/kernel", layout)
    if config.qk_norm:
        for theirs, name, rows in (("q", "query", query_rows), ("k", "key", key_rows)):
            key, path = f"{layer}.self_attn.{theirs}_norm", f"{ours}/attention/{name}"
            yield Rule(f"{key}.weight", f"{path}_norm/scale", rows)
            yield Rule(f"{key}.bias", f"{path}_norm/bias", rows)
    for name in ("gate", "up", "down"):
        key = f"{layer}.mlp.{name}_proj.weight"
        yield Rule(key, f"{ours}/mlp/{name}/kernel", LINEAR)
    yield Rule(f"{layer}.input_layernorm.weight", f"{ours}/attention_norm/scale")
    yield Rule(f"{layer}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale")
    yield Rule("model.norm.weight", f"{prefix}norm/scale")
    yield Rule("lm_head.weight", f"{prefix}head/kernel", LINEAR)


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
CHAMELEON_FIELDS: Fields = {
    **_SHARED,
    "head_dim": _EVEN_HEADS,
    "qk_norm": must(True, "a decoder without it is a Llama: llama-hf"),
    "model_parallel_size": written("model_parallel_size"),
    "swin_norm": written("swin_norm"),
    "dropout": free("transformers has none, and only training draws it"),
}
LUMINA_FIELDS: Fields = {
    **CHAMELEON_FIELDS,
    "rope_theta": written("rope_theta"),
    "dropout": written("dropout"),
}
LLAMA_FIELDS: Fields = {
    **_SHARED,
    "head_dim": written("head_dim"),
    "qk_norm": must(False, "a decoder with it is a Chameleon: chameleon-hf, lumina"),
    "swin_norm": must(False, "its norms stand before attention and MLP"),
    "model_parallel_size": free("without QK-norm nothing has so many rows"),
    **trains("dropout"),
}


def read_chameleon(values: Values) -> DecoderConfig:
    """Of `config.json` of UniToken, Lumina-mGPT and `transformers`."""
    refuse(values, attention_bias=False, mlp_bias=False, hidden_act="silu")
    refuse(values, tie_word_embeddings=False)
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
        "vocabulary_map": dict(group(source, "vocabulary_map")),
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
    refuse(values, partial_rotary_factor=1.0)
    named = parameters if "rope_theta" in parameters else values
    return float(number(named, "rope_theta", 10_000.0, least=1e-3, nullable=True))


def _image_tokenizer_name(key: str) -> str | None:
    """The name in `transformers` of a tensor of `vqgan.ckpt`: it has no decoder."""
    return None if key.startswith("decoder.") else f"model.vqmodel.{key}"


NETWORK = Network(
    "chameleon",
    DecoderConfig,
    Decoder,
    Decoder.initialize,
    counts,
    ids=lambda config: Ids(config.vocab_size),
    title="Chameleon",
)
QK_NORM = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_norm.weight",
)
LUMINA = Format(
    "lumina",
    "Lumina-mGPT (Alpha-VLLM), Hugging Face folder",
    QK_NORM,
    (NETWORK,),
    (DecoderConfig(),),
    table,
    {DecoderConfig: LUMINA_FIELDS},
    read_chameleon,
    write_lumina,
    names_ids=True,
)
CHAMELEON_HF = Format(
    "chameleon-hf",
    "Chameleon in transformers (facebook/chameleon-7b)",
    QK_NORM,
    (NETWORK,),
    (DecoderConfig(),),
    table_hf,
    {DecoderConfig: CHAMELEON_FIELDS, VQGANConfig: vqgan.VQ_CONFIG_FIELDS},
    read_chameleon,
    write_chameleon,
    names_ids=True,
    image_tokenizer=ImageTokenizer(
        "vqgan",
        VQGANConfig,
        vqgan.table,
        _image_tokenizer_name,
        "vq_config",
        vqgan.write_vq_config,
        codes=lambda config: config.n_embed,
    ),
)
LLAMA_HF = Format(
    "llama-hf",
    "Llama in transformers (meta-llama/Llama-2-7b-hf)",
    ("model.layers.0.self_attn.q_proj.weight",),
    (NETWORK,),
    (DecoderConfig(vocab_size=32_000, qk_norm=False),),
    table,
    {DecoderConfig: LLAMA_FIELDS},
    read_llama,
    write_llama,
)
