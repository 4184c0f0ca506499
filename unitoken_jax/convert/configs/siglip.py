"""SigLIP in `transformers`: the image tower, or both."""

from typing import Any

from unitoken_jax.convert.configs.fields import (
    PART,
    Fields,
    Values,
    count,
    flag,
    group,
    how,
    must,
    number,
    refuse,
    whole,
    written,
)
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)

VISION: Fields = {
    "hidden": written("hidden_size"),
    "mlp": written("intermediate_size"),
    "layers": written("num_hidden_layers"),
    "heads": written("num_attention_heads"),
    "image": written("image_size"),
    "patch": written("patch_size"),
    "head": written("vision_use_head"),
    "norm_eps": written("layer_norm_eps"),
    **how("attention", "remat", "dtype"),
}
TEXT: Fields = {
    "vocab_size": written("text_config.vocab_size"),
    "length": written("text_config.max_position_embeddings"),
    "hidden": written("text_config.hidden_size"),
    "mlp": written("text_config.intermediate_size"),
    "layers": written("text_config.num_hidden_layers"),
    "heads": written("text_config.num_attention_heads"),
    "pad": written("text_config.pad_token_id"),
    "mask_padding": must(
        False, "it pools the last position, padding or not; --part=vision is free of it"
    ),
    "norm_eps": written("text_config.layer_norm_eps"),
    **how("attention", "remat", "dtype"),
}
SIGLIP: Fields = {
    "vision": PART,
    "text": PART,
    "embed": written("text_config.projection_size"),
}


def read_siglip(values: Values) -> SiglipConfig | SiglipVisionConfig:
    """Of `config.json` of a `SiglipModel` or a `SiglipVisionModel`."""
    if not values:
        return SiglipVisionConfig()
    if "vision_config" not in values:
        return read_vision(values)
    vision = read_vision(group(values, "vision_config"))
    text = group(values, "text_config")
    refuse(text, "hidden_act", "gelu_pytorch_tanh")
    hidden = whole(text, "hidden_size", 768)
    return SiglipConfig(
        vision=vision,
        text=SiglipTextConfig(
            vocab_size=whole(text, "vocab_size", 32_000),
            length=whole(text, "max_position_embeddings", 64),
            hidden=hidden,
            mlp=whole(text, "intermediate_size", 3072),
            layers=count(text, "num_hidden_layers", 12),
            heads=count(text, "num_attention_heads", 12),
            pad=whole(text, "pad_token_id", 1, least=0, nullable=True),
            norm_eps=number(text, "layer_norm_eps", 1e-6),
        ),
        embed=whole(text, "projection_size", hidden, nullable=True),
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
        hidden=whole(values, "hidden_size", 768),
        mlp=whole(values, "intermediate_size", 3072),
        layers=count(values, "num_hidden_layers", 12),
        heads=count(values, "num_attention_heads", 12),
        image=whole(values, "image_size", 224, most=2**16),
        patch=whole(values, "patch_size", 16, most=2**16),
        head=flag(values, "vision_use_head", True),
        norm_eps=number(values, "layer_norm_eps", 1e-6),
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
