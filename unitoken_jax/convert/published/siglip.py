"""SigLIP in `transformers`: the image tower alone, or both towers."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import (
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
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import (
    CONV,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.networks import Network, Part
from unitoken_jax.convert.table import (
    Counts,
    Ignored,
    Rule,
    Table,
    kernel_and_bias,
    norm,
    query_key_value,
)
from unitoken_jax.models.siglip import (
    Siglip,
    SiglipConfig,
    SiglipTextConfig,
    SiglipVision,
    SiglipVisionConfig,
)


def counts(config: SiglipVisionConfig | SiglipConfig) -> Counts:
    """The number of layers, of each tower."""
    if isinstance(config, SiglipVisionConfig):
        return {"layer": config.layers}
    return {"layer": config.vision.layers, "text_layer": config.text.layers}


def table(
    config: SiglipVisionConfig | SiglipConfig,
    prefix: str = "",
    key: str | None = None,
    layer: str = "{layer}",
) -> Table:
    """Rules of one tower (`SiglipVisionModel`) or both (`SiglipModel`).

    Args:
        config: of the image tower, or of both.
        prefix: put in front of our paths.
        key: put in front of the image tower's names: `vision_model.` beside the text
            tower, nothing alone, `vit.` in UniToken.
        layer: counter of the image tower's layers.
    """
    ignored = Ignored("*.position_ids", "counts from zero")
    if isinstance(config, SiglipVisionConfig):
        return [*_vision(config, key or "", prefix, layer), ignored]
    return [
        *_vision(config.vision, key or "vision_model.", f"{prefix}vision/", layer),
        *_text("text_model.", f"{prefix}text/"),
        Rule("logit_scale", f"{prefix}logit_scale"),
        Rule("logit_bias", f"{prefix}logit_bias"),
        ignored,
    ]


def _vision(
    config: SiglipVisionConfig, key: str, ours: str, layer: str
) -> Iterator[Rule]:
    patches = f"{key}embeddings.patch_embedding"
    yield Rule(f"{patches}.weight", f"{ours}patch_embedding/kernel", CONV)
    yield Rule(f"{patches}.bias", f"{ours}patch_embedding/bias")
    positions = f"{key}embeddings.position_embedding.weight"
    yield Rule(positions, f"{ours}position_embedding")
    yield from _layers(f"{key}encoder.layers.{layer}", f"{ours}layers")
    yield from norm(f"{key}post_layernorm", f"{ours}norm")
    if config.head:
        yield from _head(f"{key}head", f"{ours}head")


def _text(key: str, ours: str) -> Iterator[Rule]:
    for name in ("token", "position"):
        path = f"{ours}{name}_embedding" + ("/embedding" if name == "token" else "")
        yield Rule(f"{key}embeddings.{name}_embedding.weight", path)
    yield from _layers(f"{key}encoder.layers.{{text_layer}}", f"{ours}layers")
    yield from norm(f"{key}final_layer_norm", f"{ours}norm")
    yield from kernel_and_bias(f"{key}head", f"{ours}head", LINEAR)


def _layers(key: str, ours: str) -> Iterator[Rule]:
    yield from norm(f"{key}.layer_norm1", f"{ours}/attention_norm")
    yield from norm(f"{key}.layer_norm2", f"{ours}/mlp_norm")
    for theirs, name in (("q", "query"), ("k", "key"), ("v", "value")):
        source, target = f"{key}.self_attn.{theirs}_proj", f"{ours}/attention/{name}"
        yield Rule(f"{source}.weight", f"{target}/kernel", HEADS_IN)
        yield Rule(f"{source}.bias", f"{target}/bias", HEADS_BIAS)
    yield from kernel_and_bias(
        f"{key}.self_attn.out_proj", f"{ours}/attention/out", HEADS_OUT
    )
    yield from _mlp(f"{key}.mlp", f"{ours}/mlp")


def _head(key: str, ours: str) -> Iterator[Rule]:
    """The pooling head, whose query, key and value maps are packed."""
    kernels = query_key_value(f"{ours}/attention", "kernel")
    biases = query_key_value(f"{ours}/attention", "bias")
    yield Rule(f"{key}.probe", f"{ours}/probe")
    yield Rule(f"{key}.attention.in_proj_weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attention.in_proj_bias", biases, split(HEADS_BIAS))
    yield from kernel_and_bias(
        f"{key}.attention.out_proj", f"{ours}/attention/out", HEADS_OUT
    )
    yield from norm(f"{key}.layernorm", f"{ours}/norm")
    yield from _mlp(f"{key}.mlp", f"{ours}/mlp")


def _mlp(key: str, ours: str) -> Iterator[Rule]:
    yield from kernel_and_bias(f"{key}.fc1", f"{ours}/up", LINEAR)
    yield from kernel_and_bias(f"{key}.fc2", f"{ours}/down", LINEAR)


VISION_FIELDS: Fields = {
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
TEXT_FIELDS: Fields = {
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
SIGLIP_FIELDS: Fields = {
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
    refuse(text, hidden_act="gelu_pytorch_tanh")
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
    refuse(values, hidden_act="gelu_pytorch_tanh", num_channels=3)
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


def _run_vision(module: SiglipVision) -> object:
    size = module.config.image
    return module(jnp.zeros((1, size, size, 3)))


def _run_both(module: Siglip) -> object:
    size, length = module.config.vision.image, module.config.text.length
    text = jnp.zeros((1, length), jnp.int32)
    return module(jnp.zeros((1, size, size, 3)), text)


def _parts(config: SiglipConfig) -> Mapping[str, Part]:
    return {"vision/": Part(config.vision)}  # the text tower is no published class


VISION = Network("siglip_vision", SiglipVisionConfig, SiglipVision, _run_vision, counts)
BOTH = Network("siglip", SiglipConfig, Siglip, _run_both, counts, _parts)
SIGLIP_HF = Format(
    "siglip-hf",
    "SigLIP in transformers (google/siglip-so400m-patch14-384)",
    ("vision_model.post_layernorm.weight",),
    (VISION, BOTH),
    (SiglipVisionConfig(), SiglipConfig()),
    table,
    {
        SiglipVisionConfig: VISION_FIELDS,
        SiglipTextConfig: TEXT_FIELDS,
        SiglipConfig: SIGLIP_FIELDS,
    },
    read_siglip,
    write_siglip,
    prefixes=("vision_model.", "vit."),
)
