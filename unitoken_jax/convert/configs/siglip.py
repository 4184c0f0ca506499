"""SigLIP in `transformers`: the image tower, or both."""

from typing import Any

from unitoken_jax.convert.configs.fields import Values, refuse
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)


def read_siglip(values: Values) -> SiglipConfig | SiglipVisionConfig:
    """Of `config.json` of a `SiglipModel` or a `SiglipVisionModel`."""
    if not values:
        return SiglipVisionConfig()
    if "vision_config" not in values:
        return read_vision(values)
    vision = read_vision(values["vision_config"])
    text = values.get("text_config", {})
    refuse(text, "hidden_act", "gelu_pytorch_tanh")
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
        return write_vision(config) | {"architectures": ["SiglipVisionModel"]}
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
        "vision_config": write_vision(config.vision),
    }


def read_vision(values: Values) -> SiglipVisionConfig:
    """The image tower; what is absent has the defaults of `transformers`."""
    refuse(values, "hidden_act", "gelu_pytorch_tanh", "num_channels", 3)
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


def write_vision(config: SiglipVisionConfig) -> dict[str, Any]:
    """The image tower's fields."""
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
