"""UniTok's tokenizer: the state dict `ckpt["trainer"]["unitok"]` and its `args`.

Four kinds of entries are constants that the network never trains: a zero positional
table of the encoder and zero biases of the projections' key maps.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import (
    PART,
    Fields,
    Values,
    count,
    flag,
    free,
    group,
    how,
    must,
    number,
    refuse,
    whole,
    word,
    written,
)
from unitoken_jax.convert.files.sinks import write_weights
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
from unitoken_jax.convert.published import clip_text, vitamin
from unitoken_jax.convert.published.clip_text import read_clip_text, write_clip_text
from unitoken_jax.convert.published.vitamin import SHAPE, read_shape, shape_of
from unitoken_jax.convert.table import (
    Constant,
    Counts,
    Rule,
    Table,
    kernel_and_bias,
    norm,
    query_key_value,
)
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.unitok import UniTok, UniTokConfig
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    ViTaminConfig,
)


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
        *norm("encoder.norm", f"{prefix}encoder/transformer/norm"),
        *_decoder(config.vision, f"{prefix}decoder"),
        *projection(config, "quant_proj", f"{prefix}narrow", config.vocab_width),
        *projection(config, "post_quant_proj", f"{prefix}widen", width),
        Rule(f"{books}.codebook.weight", f"{prefix}quantizer/codebooks"),
        Rule(f"{books}.vocab_usage", f"{prefix}quantizer/usage"),
        *clip_text.table(config.text, f"{prefix}text/", "text_encoder."),
        *norm("fc_norm", f"{prefix}image_norm"),
        *kernel_and_bias("projection", f"{prefix}image_projection", LINEAR),
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
        yield from kernel_and_bias(key, ours, LINEAR)
        return
    widths = config.vocab_width, config.vision.hidden
    attention = f"{ours}/attention"
    yield from norm(f"{key}.norm1", f"{ours}/attention_norm")
    yield from norm(f"{key}.norm2", f"{ours}/mlp_norm")
    yield from norm(f"{key}.norm3", f"{ours}/shortcut_norm")
    kernels = query_key_value(attention, "kernel")
    yield Rule(f"{key}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{key}.attn.q_bias", f"{attention}/query/bias", HEADS_BIAS)
    yield Rule(f"{key}.attn.v_bias", f"{attention}/value/bias", HEADS_BIAS)
    like = f"{attention}/query/bias"
    yield Constant(f"{key}.attn.zero_k_bias", (max(widths),), 0.0, like)
    narrowing = features < max(widths)
    layout = LINEAR if narrowing else HEADS_OUT
    yield from kernel_and_bias(f"{key}.attn.proj", f"{attention}/out", layout)
    yield from kernel_and_bias(f"{key}.proj", f"{ours}/shortcut", LINEAR)
    yield from vitamin.gated(f"{key}.mlp", f"{ours}/mlp")


def _decoder(config: ViTaminConfig, ours: str) -> Iterator[Rule]:
    yield from vitamin.transformer("decoder", f"{ours}/transformer")
    yield from norm("decoder.norm", f"{ours}/transformer/norm")
    yield from kernel_and_bias("decoder.up_conv1.conv", f"{ours}/up", CONV)
    for stage, depth in enumerate(config.depths[::-1]):
        for i in range(depth):
            key = f"decoder.up_conv{stage + 2}.{i}"
            path = f"{ours}/stage_{stage}_block_{i}"
            yield from vitamin.mbconv(key, path)
            if i == 0:
                yield from kernel_and_bias(f"{key}.up.conv", f"{path}/up", CONV)
                yield from kernel_and_bias(
                    f"{key}.shortcut.conv", f"{path}/shortcut", CONV
                )
    yield from kernel_and_bias("decoder.up_conv4.conv1.conv", f"{ours}/head_up", CONV)
    yield from norm("decoder.up_conv4.norm1", f"{ours}/head_norm")
    yield from kernel_and_bias("decoder.up_conv4.conv2", f"{ours}/head", CONV)


_VISION = {
    "vitamin_small": VITAMIN_SMALL,
    "vitamin_base": VITAMIN_BASE,
    "vitamin_large": VITAMIN_LARGE,
}
_PROJECTIONS = {"attn": "attention", "linear": "linear"}


def _heads(config: UniTokConfig) -> int | None:
    """Heads of the projections; a linear one has none to differ."""
    heads = config.vision.hidden // config.vocab_width
    if config.projection == "linear" or config.projection_heads is None:
        return config.projection_heads
    return heads


VITAMIN_FIELDS: Fields = {
    **dict.fromkeys(SHAPE, written("model", "encoder")),
    "drop_path": written("drop_path"),
    **how("attention", "remat", "chunks", "dtype"),
}
UNITOK_FIELDS: Fields = {
    "vision": PART,
    "text": PART,
    "vocab_size": written("vocab_size"),
    "vocab_width": written("vocab_width"),
    "num_codebooks": written("num_codebooks"),
    "structure": must("split", "it gives each codebook its channels"),
    "normalize": must(True, "it always compares vectors of length one"),
    "projection": written("quant_proj"),
    "causal": must(False, "as published since April 2025"),
    "projection_heads": must(_heads, "the width over vocab_width"),
    "beta": written("vq_beta"),
    "objective": free("what it was trained for"),
    **how("search_chunk"),
}
RELEASED = ("vitamin_base", "vitamin_large")


def read_unitok(values: Values) -> UniTokConfig:
    """Of the `args` of a checkpoint.

    The files of February and of April 2025 have the same names, shapes and `args`; the
    older one has causal projections, which `causal=True` (of our own making) says.

    Raises:
        WeightsError: an encoder or projection that is not one of the published ones.
    """
    default = UniTokConfig()
    refuse(values, num_query=0)
    kind = word(values, "quant_proj", "attn")
    if kind not in _PROJECTIONS:
        raise WeightsError(
            f"the source's quant_proj is {kind!r}; known are {', '.join(_PROJECTIONS)}"
        )
    return UniTokConfig(
        vision=_read_vision(values),
        text=read_clip_text(values),
        vocab_size=whole(values, "vocab_size", default.vocab_size),
        vocab_width=whole(values, "vocab_width", default.vocab_width),
        num_codebooks=count(values, "num_codebooks", default.num_codebooks),
        projection="linear" if kind == "linear" else "attention",
        causal=flag(values, "causal", False),
        beta=number(values, "vq_beta", default.beta),
    )


def write_unitok(config: UniTokConfig, source: Values) -> dict[str, Any]:
    """For the published loader, which takes unknown names as they are.

    Raises:
        WeightsError: more or fewer convolutional stages than the published code has.
    """
    if len(config.vision.widths) != 2:
        raise WeightsError(
            f"UniTok's published code has two convolutional stages, and this one has"
            f" vision.widths={config.vision.widths}"
        )
    kinds = {ours: theirs for theirs, ours in _PROJECTIONS.items()}
    kept = {name: value for name, value in source.items() if name != "causal"}
    return kept | {
        "model": model_name(config.vision) or "custom",
        "encoder": shape_of(config.vision),
        "num_query": 0,
        "drop_path": config.vision.drop_path,
        "vocab_size": config.vocab_size,
        "vocab_width": config.vocab_width,
        "num_codebooks": config.num_codebooks,
        "quant_proj": kinds[config.projection],
        "vq_beta": config.beta,
        **write_clip_text(config.text, {}),
    }


def unreleased_vision(config: Any) -> list[str]:
    """What the released code must be changed in for an encoder of another shape."""
    name = model_name(config.vision)
    if name in RELEASED:
        return []
    shown = name or ", ".join(f"{k}={v}" for k, v in shape_of(config.vision).items())
    return [
        f"vision is {shown}, and the released code has {' and '.join(RELEASED)} only:"
        " register the encoder there, and its widths in ViTaminDecoder"
    ]


def model_name(vision: ViTaminConfig) -> str | None:
    """The name of an encoder of this shape in UniTok's code, if it has one."""
    for name, published in _VISION.items():
        if shape_of(published) == shape_of(vision):
            return name
    return None


def _read_vision(values: Values) -> ViTaminConfig:
    name = word(values, "model", "vitamin_large")
    default = ViTaminConfig().drop_path
    drop_path = number(values, "drop_path", default, most=1.0)
    if values.get("encoder"):
        return read_shape(group(values, "encoder"), drop_path)
    if name not in _VISION:
        raise WeightsError(
            f"the source's model is {name!r}; known are {', '.join(_VISION)}"
        )
    return read_shape(shape_of(_VISION[name]), drop_path)


def _run(module: UniTok) -> object:
    text = jnp.zeros((1, module.config.text.length), jnp.int32)
    return module(jnp.zeros((1, 32, 32, 3)), text)


def _parts(config: UniTokConfig) -> Mapping[str, Part]:
    return {"text/": Part(config.text)}


NETWORK = Network("unitok", UniTokConfig, UniTok, _run, counts, _parts)
UNITOK = Format(
    "unitok",
    "UniTok's tokenizer (FoundationVision/unitok_tokenizer)",
    ("quant_proj.attn.qkv.weight", "post_quant_proj.attn.qkv.weight"),
    (NETWORK,),
    (UniTokConfig(),),
    table,
    {
        UniTokConfig: UNITOK_FIELDS,
        ViTaminConfig: VITAMIN_FIELDS,
        ClipTextConfig: clip_text.TEXT_FIELDS,
    },
    read_unitok,
    write_unitok,
    write=partial(write_weights, wrap=("trainer", "unitok"), beside="args"),
    changes=unreleased_vision,
)
