"""UniTok's multimodal LLM: Llama's names, its code embedder and its depth head."""

from collections.abc import Iterator

from unitoken_jax.convert import chameleon, unitok
from unitoken_jax.convert.layouts import HEADS_IN, HEADS_OUT, LINEAR
from unitoken_jax.convert.table import Constant, Counts, Rule, Table
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
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
    yield Rule(f"{mlp}.0.weight", f"{ours}/norm/scale")
    yield Rule(f"{mlp}.0.bias", f"{ours}/norm/bias")
    for theirs, name in (("1", "up"), ("3", "down")):
        yield Rule(f"{mlp}.{theirs}.weight", f"{ours}/mlp/{name}/kernel", LINEAR)
        yield Rule(f"{mlp}.{theirs}.bias", f"{ours}/mlp/{name}/bias")


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
    yield Rule("ar_head.linear_head.weight", f"{ours}/head/kernel", LINEAR)
    yield Rule("ar_head.linear_head.bias", f"{ours}/head/bias")
