"""UniTok's tokenizer: the state dict `ckpt["trainer"]["unitok"]` of the released file.

Four kinds of entries are constants that the network never trains: a zero positional
table of the encoder and zero biases of the projections' key maps.
"""

from collections.abc import Iterator

from unitoken_jax.convert import clip_text
from unitoken_jax.convert.layouts import (
    CONV,
    DEPTHWISE,
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
_GATED = {"w0": "gate", "w1": "up", "w2": "down"}
_STEM = "encoder.patch_embed.backbone"


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
        *_encoder(config.vision, f"{prefix}encoder"),
        *_decoder(config.vision, f"{prefix}decoder"),
        *projection(config, "quant_proj", f"{prefix}narrow", config.vocab_width),
        *projection(config, "post_quant_proj", f"{prefix}widen", width),
        Rule(f"{books}.codebook.weight", f"{prefix}quantiser/codebooks"),
        Rule(f"{books}.vocab_usage", f"{prefix}quantiser/usage"),
        *clip_text.table(config.text, f"{prefix}text/", "text_encoder."),
        *_norm("fc_norm", f"{prefix}image_norm"),
        *_linear("projection", f"{prefix}image_projection"),
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
        yield from _linear(key, ours)
        return
    widths = config.vocab_width, config.vision.hidden
    attention = f"{ours}/attention"
    yield from _norm(f"{key}.norm1", f"{ours}/attention_norm")
    yield from _norm(f"{key}.norm2", f"{ours}/mlp_norm")
    yield from _norm(f"{key}.norm3", f"{ours}/shortcut_norm")
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
    yield from _linear(f"{key}.proj", f"{ours}/shortcut")
    yield from _gated(f"{key}.mlp", f"{ours}/mlp")


def _encoder(config: ViTaminConfig, ours: str) -> Iterator[Rule]:
    yield from _conv(f"{_STEM}.stem.conv1", f"{ours}/stem_1")
    yield from _norm(f"{_STEM}.stem.norm1", f"{ours}/stem_norm")
    yield from _conv(f"{_STEM}.stem.conv2", f"{ours}/stem_2")
    entering = config.widths[0]
    for stage, (width, depth) in enumerate(
        zip(config.widths, config.depths, strict=True)
    ):
        for i in range(depth):
            key = f"{_STEM}.stages.{stage}.{i}"
            path = f"{ours}/stage_{stage}_block_{i}"
            yield from _mbconv(key, path)
            if i == 0 and width != entering:
                yield from _conv(f"{key}.shortcut.expand", f"{path}/shortcut")
        entering = width
    yield from _norm(f"{_STEM}.pool.norm", f"{ours}/pool_norm")
    yield from _conv(f"{_STEM}.pool.proj", f"{ours}/pool")
    yield from _transformer("encoder", f"{ours}/transformer")


def _decoder(config: ViTaminConfig, ours: str) -> Iterator[Rule]:
    yield from _transformer("decoder", f"{ours}/transformer")
    yield from _conv("decoder.up_conv1.conv", f"{ours}/up")
    for stage, depth in enumerate(config.depths[::-1]):
        for i in range(depth):
            key = f"decoder.up_conv{stage + 2}.{i}"
            path = f"{ours}/stage_{stage}_block_{i}"
            yield from _mbconv(key, path)
            if i == 0:
                yield from _conv(f"{key}.up.conv", f"{path}/up")
                yield from _conv(f"{key}.shortcut.conv", f"{path}/shortcut")
    yield from _conv("decoder.up_conv4.conv1.conv", f"{ours}/head_up")
    yield from _norm("decoder.up_conv4.norm1", f"{ours}/head_norm")
    yield from _conv("decoder.up_conv4.conv2", f"{ours}/head")


def _transformer(key: str, ours: str) -> Iterator[Rule]:
    block, layers = f"{key}.blocks.{{block}}", f"{ours}/layers"
    attention = f"{layers}/attention"
    kernels = tuple(f"{attention}/{name}/kernel" for name in _PACKED)
    biases = tuple(f"{attention}/{name}/bias" for name in _PACKED)
    yield from _norm(f"{block}.norm1", f"{layers}/attention_norm")
    yield Rule(f"{block}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{block}.attn.qkv.bias", biases, split(HEADS_BIAS))
    yield Rule(f"{block}.attn.proj.weight", f"{attention}/out/kernel", HEADS_OUT)
    yield Rule(f"{block}.attn.proj.bias", f"{attention}/out/bias")
    yield from _norm(f"{block}.norm2", f"{layers}/mlp_norm")
    yield from _gated(f"{block}.mlp", f"{layers}/mlp")
    yield from _norm(f"{key}.norm", f"{ours}/norm")


def _mbconv(key: str, ours: str) -> Iterator[Rule]:
    yield from _norm(f"{key}.pre_norm", f"{ours}/norm")
    yield from _conv(f"{key}.conv1_1x1", f"{ours}/expand")
    yield Rule(f"{key}.conv2_kxk.weight", f"{ours}/depthwise/kernel", DEPTHWISE)
    yield Rule(f"{key}.conv2_kxk.bias", f"{ours}/depthwise/bias")
    yield from _conv(f"{key}.conv3_1x1", f"{ours}/reduce")


def _gated(key: str, ours: str) -> Iterator[Rule]:
    yield from _norm(f"{key}.norm", f"{ours}/norm")
    for theirs, name in _GATED.items():
        yield from _linear(f"{key}.{theirs}", f"{ours}/{name}")


def _conv(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/kernel", CONV)
    yield Rule(f"{key}.bias", f"{ours}/bias")


def _linear(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/kernel", LINEAR)
    yield Rule(f"{key}.bias", f"{ours}/bias")


def _norm(key: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{ours}/scale")
    yield Rule(f"{key}.bias", f"{ours}/bias")
