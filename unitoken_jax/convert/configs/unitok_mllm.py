"""UniTok's multimodal LLM: a Llama's configuration and its code embedder's."""

import dataclasses
from typing import Any

from unitoken_jax.convert.configs import decoder
from unitoken_jax.convert.configs.decoder import read_llama, write_llama
from unitoken_jax.convert.configs.fields import (
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
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig

_IN_CODE = "a number in the released code"
_SIZES = ("codebooks", "codes", "code_width", "projection", "depth_layers")


def _projection_heads(config: UniTokMllmConfig) -> int:
    """Heads show in no shape: they may differ only where the code must be changed."""
    default = UniTokMllmConfig()
    same = all(getattr(config, name) == getattr(default, name) for name in _SIZES)
    return default.projection_heads if same else config.projection_heads


# `LlamaConfig` of transformers 4.39, with which it was released, has no head_dim.
LLAMA: Fields = {
    **decoder.LLAMA,
    "rope_theta": written("rope_theta"),
    "head_dim": dataclasses.replace(decoder.CHAMELEON["head_dim"], names=("head_dim",)),
}
MLLM: Fields = {
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
