"""UniTok's tokenizer: the state dict `ckpt["trainer"]["unitok"]` of the released file.

Four kinds of entries are constants that the network never trains: a zero positional
table of the encoder and zero biases of the projections' key maps.
"""

from collections.abc import Iterator

from unitoken_jax.convert import clip_text, vitamin
from unitoken_jax.convert.layouts import (
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.table import Constant, Counts, Rule, Table
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.vitamin import ViTaminConfig

_PACKED = ("query", "key", "value")


def counts(config: UniTokConfig) -> Counts:
    """Blocks of the transformers (encoder and decoder alike) and codebooks."""
    return {
        "block": config.vision.layers,
        "codebook": config.num_codebooks,
        **clip_text.counts(config.text),
    }


def table(config: UniTokConfig, prefix: str = "") -> Table:
    """Rules of the whole tokenizer.

    Args:
        config: its configuration.
        prefix: put in front of our paths.
    """
    books = "quantizer.codebooks.{codebook}"
    width = config.vision.hidden
    return [
        Rule("logit_scale", f"{prefix}logit_scale"),
        Constant(
            "encoder.pos_embed", (1, 1, width), 0.0, like=f"{prefix}image_norm/scale"
        ),
        *vitamin.encoder(config.vision, "encoder", f"{prefix}encoder"),
        *vitamin.norm("encoder.norm", f"{prefix}encoder/transformer/norm"),
        *_decoder(config.vision, f"{prefix}decoder"),
        *projection(config, "quant_proj", f"{prefix}narrow", config.vocab_width),
        *projection(config, "post_quant_proj", f"{prefix}widen", width),
        Rule(f"{books}.codebook.weight", f"{prefix}quantizer/codebooks"),
        Rule(f"{books}.vocab_usage", f"{prefix}quantizer/usage"),
        *clip_text.table(config.text, f"{prefix}text/", "text_encoder."),
        *vitamin.norm("fc_norm", f"{prefix}image_norm"),
        *vitamin.linear("projection", f"{prefix}image_projection"),
    ]


def projection(
    config: UniTokConfig, key: str, ours: str, features: int
) -> Iterator[Rule | Constant]:
    """Rules of one of the two projections.

    Args:
        config: the tokenizer's configuration.
        key: its published name.
        ours: its path.
        features: its output width.
    """
    if config.projection == "linear":
        yield from vitamin.linear(key, ours)
        return
    widths = config.vocab_width, config.vision.hidden
    attention = f"{ours}/attention"
    yield from vitamin.norm(f"{key}.norm1", f"{ours}/attention_norm")
    yield from vitamin.norm(f"{key}.norm2", f"{ours}/mlp_norm")
    yield from vitamin.norm(f"{key}.norm3", f"{ours}/shortcut_norm")
    kernels = tuple(f"{attention}/{name}/kernel" for name in _PACKED)
    yield Rule(f"{key}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attn.q_bias", f"{attention}/query/bias", HEADS_BIAS)
    yield Rule(f"{key}.attn.v_bias", f"{attention}/value/bias", HEADS_BIAS)
    like = f"{attention}/query/bias"
    yield Constant(f"{key}.attn.zero_k_bias", (max(widths),), 0.0, like)
    narrowing = features < max(widths)
    layout = LINEAR if narrowing else HEADS_OUT
    yield Rule(f"{key}.attn.proj.weight", f"{attention}/out/kernel", layout)
    yield Rule(f"{key}.attn.proj.bias", f"{attention}/out/bias")
    yield from vitamin.linear(f"{key}.proj", f"{ours}/shortcut")
    yield from vitamin.gated(f"{key}.mlp", f"{ours}/mlp")


def _decoder(config: ViTaminConfig, ours: str) -> Iterator[Rule]:
    yield from vitamin.transformer("decoder", f"{ours}/transformer")
    yield from vitamin.norm("decoder.norm", f"{ours}/transformer/norm")
    yield from vitamin.conv("decoder.up_conv1.conv", f"{ours}/up")
    for stage, depth in enumerate(config.depths[::-1]):
        for i in range(depth):
            key = f"decoder.up_conv{stage + 2}.{i}"
            path = f"{ours}/stage_{stage}_block_{i}"
            yield from vitamin.mbconv(key, path)
            if i == 0:
                yield from vitamin.conv(f"{key}.up.conv", f"{path}/up")
                yield from vitamin.conv(f"{key}.shortcut.conv", f"{path}/shortcut")
    yield from vitamin.conv("decoder.up_conv4.conv1.conv", f"{ours}/head_up")
    yield from vitamin.norm("decoder.up_conv4.norm1", f"{ours}/head_norm")
    yield from vitamin.conv("decoder.up_conv4.conv2", f"{ours}/head")
