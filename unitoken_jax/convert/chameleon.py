"""Chameleon's decoder in its three published spellings, and Llama's.

`table` is UniToken's and Lumina-mGPT's (Hugging Face names, one QK-norm row per
model-parallel shard), `table_hf` that of `transformers` (one row per head),
`table_meta` Meta's own (rotary pairs side by side). Without QK-norm the first is
Llama's in `transformers`.
"""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import (
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    SAME,
    Layout,
    chain,
    repeated_rows,
    rotary_halves,
)
from unitoken_jax.convert.table import Constant, Counts, Ignored, Rule, Table
from unitoken_jax.models.decoder import DecoderConfig

# How the shards of Meta's model-parallel checkpoints become one tensor.
META_JOINS: dict[str, int | str] = {
    "tok_embeddings.weight": 1,
    "output.weight": 0,
    "norm.weight": "mean",
    "attention.wq.weight": 0,
    "attention.wk.weight": 0,
    "attention.wv.weight": 0,
    "attention.wo.weight": 1,
    "attention.q_normalization.weight": "stack",
    "attention.q_normalization.bias": "stack",
    "attention.k_normalization.weight": "stack",
    "attention.k_normalization.bias": "stack",
    "feed_forward.w1.weight": 0,
    "feed_forward.w2.weight": 1,
    "feed_forward.w3.weight": 0,
    "attention_norm.weight": "mean",
    "ffn_norm.weight": "mean",
    "rope.freqs": "mean",
}


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


def table_meta(config: DecoderConfig, prefix: str = "") -> Table:
    """Rules of Meta's checkpoints, their shards joined by `META_JOINS`.

    Args:
        config: the decoder's configuration.
        prefix: put in front of our paths.
    """
    turned = chain(rotary_halves(config.head_dim), HEADS_IN)
    attention = f"{prefix}layers/attention"
    key = "layers.{layer}."
    rules: list[Rule | Constant | Ignored] = [
        Rule("tok_embeddings.weight", f"{prefix}embedding/embedding"),
        Rule(f"{key}attention.wq.weight", f"{attention}/query/kernel", turned),
        Rule(f"{key}attention.wk.weight", f"{attention}/key/kernel", turned),
        Rule(f"{key}attention.wv.weight", f"{attention}/value/kernel", HEADS_IN),
        Rule(f"{key}attention.wo.weight", f"{attention}/out/kernel", HEADS_OUT),
        Rule(f"{key}feed_forward.w1.weight", f"{prefix}layers/mlp/gate/kernel", LINEAR),
        Rule(f"{key}feed_forward.w3.weight", f"{prefix}layers/mlp/up/kernel", LINEAR),
        Rule(f"{key}feed_forward.w2.weight", f"{prefix}layers/mlp/down/kernel", LINEAR),
        Rule(f"{key}attention_norm.weight", f"{prefix}layers/attention_norm/scale"),
        Rule(f"{key}ffn_norm.weight", f"{prefix}layers/mlp_norm/scale"),
        Rule("norm.weight", f"{prefix}norm/scale"),
        Rule("output.weight", f"{prefix}head/kernel", LINEAR),
        # Meta's loader insists on this table, which no code of theirs reads.
        Constant(
            "rope.freqs",
            (config.head_dim // 2,),
            tuple(_frequencies(config)),
            like=f"{prefix}norm/scale",
            derived=True,
        ),
    ]
    if config.qk_norm:
        vector = rotary_halves(config.head_dim, -1)
        for theirs, ours in (("q", "query"), ("k", "key")):
            name, path = f"{key}attention.{theirs}_normalization", f"{ours}_norm"
            rules += [
                Rule(f"{name}.weight", f"{attention}/{path}/scale", vector),
                Rule(f"{name}.bias", f"{attention}/{path}/bias", vector),
            ]
    return rules


def _frequencies(config: DecoderConfig) -> Iterator[float]:
    """Radians a position, one for each rotary pair."""
    for pair in range(config.head_dim // 2):
        yield config.rope_theta ** (-2 * pair / config.head_dim)


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
