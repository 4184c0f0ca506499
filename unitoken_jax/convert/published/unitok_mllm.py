"""UniTok's multimodal LLM: Llama's names, its code embedder and its depth head."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from unitoken_jax.convert.fields import (
    PART,
    Fields,
    Values,
    count,
    how,
    must,
    trains,
    usual,
    whole,
    written,
)
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import HEADS_IN, HEADS_OUT, LINEAR
from unitoken_jax.convert.networks import Ids, Network, Part
from unitoken_jax.convert.published import chameleon, unitok
from unitoken_jax.convert.published.chameleon import read_llama, write_llama
from unitoken_jax.convert.table import (
    Constant,
    Counts,
    Rule,
    Table,
    kernel_and_bias,
    norm,
)
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllm, UniTokMllmConfig
from unitoken_jax.models.vitamin import ViTaminConfig

_EMBEDDER = "model.multi_embedder"


def counts(config: UniTokMllmConfig) -> Counts:
    """Blocks of decoder and depth head, codebooks of images and of the depth head."""
    return {
        **chameleon.counts(config.decoder),
        "codebook": config.codebooks,
        "depth_layer": config.depth_layers,
        "depth": config.codebooks - 1,
    }


def table(config: UniTokMllmConfig, prefix: str = "") -> Table:
    """Rules of the whole model.

    Args:
        config: the model's configuration.
        prefix: put in front of our paths.
    """
    return [
        *chameleon.table(config.decoder, f"{prefix}decoder/"),
        *_embedder(config, f"{prefix}embedder"),
        *_depth_head(f"{prefix}depth"),
    ]


def _embedder(config: UniTokMllmConfig, ours: str) -> Iterator[Rule | Constant]:
    books = f"{_EMBEDDER}.quantizer.codebooks.{{codebook}}"
    yield Rule(f"{books}.codebook.weight", f"{ours}/quantizer/codebooks")
    yield Rule(f"{books}.vocab_usage", f"{ours}/quantizer/usage")
    yield from unitok.projection(
        UniTokConfig(
            vision=ViTaminConfig(hidden=config.projection, heads=1),
            vocab_size=config.codebooks * config.codes,
            vocab_width=config.codebooks * config.code_width,
            num_codebooks=config.codebooks,
        ),
        f"{_EMBEDDER}.attn_projection",
        f"{ours}/projection",
        config.projection,
    )
    mlp = f"{_EMBEDDER}.mm_projector"
    yield from norm(f"{mlp}.0", f"{ours}/norm")
    for theirs, name in (("1", "up"), ("3", "down")):
        yield from kernel_and_bias(f"{mlp}.{theirs}", f"{ours}/mlp/{name}", LINEAR)


def _depth_head(ours: str) -> Iterator[Rule]:
    yield Rule("ar_head.codebooks.{depth}.weight", f"{ours}/embeddings/embedding")
    layer, blocks = "ar_head.layers.{depth_layer}", f"{ours}/layers"
    for theirs, name in (("q", "query"), ("k", "key"), ("v", "value")):
        key = f"{layer}.self_attn.{theirs}_proj.weight"
        yield Rule(key, f"{blocks}/attention/{name}/kernel", HEADS_IN)
    key = f"{layer}.self_attn.o_proj.weight"
    yield Rule(key, f"{blocks}/attention/out/kernel", HEADS_OUT)
    for name in ("gate", "up", "down"):
        key = f"{layer}.mlp.{name}_proj.weight"
        yield Rule(key, f"{blocks}/mlp/{name}/kernel", LINEAR)
    yield Rule(f"{layer}.input_layernorm.weight", f"{blocks}/attention_norm/scale")
    yield Rule(f"{layer}.post_attention_layernorm.weight", f"{blocks}/mlp_norm/scale")
    yield Rule("ar_head.norm.weight", f"{ours}/norm/scale")
    yield from kernel_and_bias("ar_head.linear_head", f"{ours}/head", LINEAR)


_IN_CODE = "a number in the released code"
_SIZES = ("codebooks", "codes", "code_width", "projection", "depth_layers")


def _projection_heads(config: UniTokMllmConfig) -> int:
    """Heads show in no shape: they may differ only where the code must be changed."""
    default = UniTokMllmConfig()
    same = all(getattr(config, name) == getattr(default, name) for name in _SIZES)
    return default.projection_heads if same else config.projection_heads


# `LlamaConfig` of transformers 4.39, with which it was released, has no head_dim.
LLAMA_FIELDS: Fields = {
    **chameleon.LLAMA_FIELDS,
    "rope_theta": written("rope_theta"),
    "head_dim": dataclasses.replace(
        chameleon.CHAMELEON_FIELDS["head_dim"], names=("head_dim",)
    ),
}
MLLM_FIELDS: Fields = {
    "decoder": PART,
    "codebooks": usual(8, _IN_CODE, "num_codebooks"),
    "codes": usual(4096, _IN_CODE, "codebook_vocab"),
    "code_width": usual(8, _IN_CODE, "vocab_width"),
    "projection": usual(1024, _IN_CODE, "projection_width"),
    "projection_heads": must(_projection_heads, _IN_CODE, "projection_heads"),
    "depth_layers": usual(3, _IN_CODE, "depth_layers"),
    **trains("z_loss"),
    **how("loss_chunk", "code_chunk"),
}


def read_unitok_mllm(values: Values) -> UniTokMllmConfig:
    """Of `config.json`; what it does not say of the codes is as in the published 7B."""
    default = UniTokMllmConfig()
    books = count(values, "num_codebooks", default.codebooks)
    codes = whole(values, "codebook_vocab", default.codes * books, least=books)
    width = whole(values, "vocab_width", default.code_width * books, least=books)
    norm = {"rms_norm_eps": 1e-5}  # Llama-2's, where the file is silent
    return UniTokMllmConfig(
        decoder=read_llama(norm | dict(values)),
        codebooks=books,
        codes=codes // books,
        code_width=width // books,
        projection=whole(values, "projection_width", default.projection),
        projection_heads=count(values, "projection_heads", default.projection_heads),
        depth_layers=count(values, "depth_layers", default.depth_layers),
    )


def write_unitok_mllm(config: UniTokMllmConfig, source: Values) -> dict[str, Any]:
    """For the published class, with what it does not say of the codes."""
    return write_llama(config.decoder, source) | {
        "architectures": ["MiniGeminiLlamaForCausalLM"],
        "model_type": "mini_gemini",
        "rope_theta": config.decoder.rope_theta,
        "num_codebooks": config.codebooks,
        "codebook_vocab": config.codes * config.codebooks,
        "vocab_width": config.code_width * config.codebooks,
        "projection_width": config.projection,
        "projection_heads": config.projection_heads,
        "depth_layers": config.depth_layers,
    }


def _parts(config: UniTokMllmConfig) -> Mapping[str, Part]:
    return {"decoder/": Part(config.decoder)}


NETWORK = Network(
    "unitok_mllm",
    UniTokMllmConfig,
    UniTokMllm,
    UniTokMllm.initialize,
    counts,
    _parts,
    ids=lambda config: Ids(config.decoder.vocab_size),
)
UNITOK_MLLM = Format(
    "unitok-mllm",
    "UniTok's multimodal LLM (FoundationVision/unitok_mllm), Hugging Face folder",
    ("ar_head.linear_head.weight", "lm_head.weight"),
    (NETWORK,),
    (UniTokMllmConfig(),),
    table,
    {UniTokMllmConfig: MLLM_FIELDS, DecoderConfig: LLAMA_FIELDS},
    read_unitok_mllm,
    write_unitok_mllm,
)
