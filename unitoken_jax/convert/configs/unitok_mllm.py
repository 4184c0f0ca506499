"""UniTok's multimodal LLM: a Llama's configuration and its code embedder's."""

from typing import Any

from unitoken_jax.convert.configs.decoder import read_llama, write_llama
from unitoken_jax.convert.configs.fields import Values
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig


def read_unitok_mllm(values: Values) -> UniTokMllmConfig:
    """Of `config.json`; what it does not say of the codes is as in the published 7B."""
    default = UniTokMllmConfig()
    books = values.get("num_codebooks", default.codebooks)
    codes = values.get("codebook_vocab", default.codes * default.codebooks)
    width = values.get("vocab_width", default.code_width * default.codebooks)
    norm = {"rms_norm_eps": 1e-5}  # Llama-2's, where the file is silent
    return UniTokMllmConfig(
        decoder=read_llama(norm | dict(values)),
        codebooks=books,
        codes=codes // books,
        code_width=width // books,
        projection=values.get("projection_width", default.projection),
        projection_heads=values.get("projection_heads", default.projection_heads),
        depth_layers=values.get("depth_layers", default.depth_layers),
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
