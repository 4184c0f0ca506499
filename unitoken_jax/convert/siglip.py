"""SigLIP as `transformers` names it: the image tower alone, or both towers."""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import (
    CONV,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.models.siglip import SiglipConfig, SiglipVisionConfig


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
    yield from _norm(f"{key}post_layernorm", f"{ours}norm")
    if config.head:
        yield from _head(f"{key}head", f"{ours}head")


def _text(key: str, ours: str) -> Iterator[Rule]:
    for name in ("token", "position"):
        path = f"{ours}{name}_embedding" + ("/embedding" if name == "token" else "")
        yield Rule(f"{key}embeddings.{name}_embedding.weight", path)
    yield from _layers(f"{key}encoder.layers.{{text_layer}}", f"{ours}layers")
    yield from _norm(f"{key}final_layer_norm", f"{ours}norm")
    yield from _linear(f"{key}head", f"{ours}head")


def _layers(key: str, ours: str) -> Iterator[Rule]:
    yield from _norm(f"{key}.layer_norm1", f"{ours}/attention_norm")
    yield from _norm(f"{key}.layer_norm2", f"{ours}/mlp_norm")
    for theirs, name in (("q", "query"), ("k", "key"), ("v", "value")):
        source, target = f"{key}.self_attn.{theirs}_proj", f"{ours}/attention/{name}"
        yield Rule(f"{source}.weight", f"{target}/kernel", HEADS_IN)
        yield Rule(f"{source}.bias", f"{target}/bias", HEADS_BIAS)
    yield from _output(f"{key}.self_attn.out_proj", f"{ours}/attention/out")
    yield from _mlp(f"{key}.mlp", f"{ours}/mlp")


def _head(key: str, ours: str) -> Iterator[Rule]:
    """The pooling head, whose query, key and value maps are packed."""
    kinds = ("query", "key", "value")
    kernels = tuple(f"{ours}/attention/{kind}/kernel" for kind in kinds)
    biases = tuple(f"{ours}/attention/{kind}/bias" for kind in kinds)
    yield Rule(f"{key}.probe", f"{ours}/probe")
    yield Rule(f"{key}.attention.in_proj_weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attention.in_proj_bias", biases, split(HEADS_BIAS))
    yield from _output(f"{key}.attention.out_proj", f"{ours}/attention/out")
    yield from _norm(f"{key}.layernorm", f"{ours}/norm")
    yield from _mlp(f"{key}.mlp", f"{ours}/mlp")


def _mlp(key: str, ours: str) -> Iterator[Rule]:
    yield from _linear(f"{key}.fc1", f"{ours}/up")
    yield from _linear(f"{key}.fc2", f"{ours}/down")


def _output(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/kernel", HEADS_OUT)
    yield Rule(f"{key}.bias", f"{ours}/bias")


def _linear(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/kernel", LINEAR)
    yield Rule(f"{key}.bias", f"{ours}/bias")


def _norm(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/scale")
    yield Rule(f"{key}.bias", f"{ours}/bias")
