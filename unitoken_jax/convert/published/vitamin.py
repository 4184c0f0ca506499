"""ViTamin as timm names it, and the ViTamin CLIPs of open_clip that are made of it.

The rules and the shape of the encoder serve UniTok too. Of a CLIP, UniTok takes the two
towers. As the published code does (`use_clip_pretrain`): positions, the norm after
pooling, the head and the logit scale are dropped, and the last norm of UniTok's
encoder, which a pooled ViTamin lacks, begins anew.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from unitoken_jax.convert.fields import (
    PART,
    Fields,
    Values,
    count,
    group,
    how,
    must,
    number,
    refuse,
    whole,
    wholes,
    word,
    written,
)
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import (
    CONV,
    DEPTHWISE,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.networks import Network, Part
from unitoken_jax.convert.published import clip_text
from unitoken_jax.convert.table import (
    Counts,
    Ignored,
    Initial,
    Rule,
    Table,
    kernel_and_bias,
    norm,
    query_key_value,
)
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    VITAMIN_XLARGE,
    ViTaminClip,
    ViTaminClipConfig,
    ViTaminConfig,
)

_GATED = {"w0": "gate", "w1": "up", "w2": "down"}


def encoder(config: ViTaminConfig, key: str, ours: str) -> Iterator[Rule]:
    """Rules of the encoder, but for its last norm.

    Args:
        config: the encoder's configuration.
        key: its published name.
        ours: its path.
    """
    stem = f"{key}.patch_embed.backbone"
    yield from kernel_and_bias(f"{stem}.stem.conv1", f"{ours}/stem_1", CONV)
    yield from norm(f"{stem}.stem.norm1", f"{ours}/stem_norm")
    yield from kernel_and_bias(f"{stem}.stem.conv2", f"{ours}/stem_2", CONV)
    entering = config.widths[0]
    for stage, (width, depth) in enumerate(
        zip(config.widths, config.depths, strict=True)
    ):
        for i in range(depth):
            block = f"{stem}.stages.{stage}.{i}"
            path = f"{ours}/stage_{stage}_block_{i}"
            yield from mbconv(block, path)
            if i == 0 and width != entering:
                yield from kernel_and_bias(
                    f"{block}.shortcut.expand", f"{path}/shortcut", CONV
                )
        entering = width
    yield from norm(f"{stem}.pool.norm", f"{ours}/pool_norm")
    yield from kernel_and_bias(f"{stem}.pool.proj", f"{ours}/pool", CONV)
    yield from transformer(key, f"{ours}/transformer")


def transformer(key: str, ours: str) -> Iterator[Rule]:
    """Rules of the blocks, without the norm behind them."""
    block, layers = f"{key}.blocks.{{block}}", f"{ours}/layers"
    attention = f"{layers}/attention"
    kernels = query_key_value(attention, "kernel")
    biases = query_key_value(attention, "bias")
    yield from norm(f"{block}.norm1", f"{layers}/attention_norm")
    yield Rule(f"{block}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{block}.attn.qkv.bias", biases, split(HEADS_BIAS))
    yield from kernel_and_bias(f"{block}.attn.proj", f"{attention}/out", HEADS_OUT)
    yield from norm(f"{block}.norm2", f"{layers}/mlp_norm")
    yield from gated(f"{block}.mlp", f"{layers}/mlp")


def mbconv(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a convolutional block, without its shortcut."""
    yield from norm(f"{key}.pre_norm", f"{ours}/norm")
    yield from kernel_and_bias(f"{key}.conv1_1x1", f"{ours}/expand", CONV)
    yield from kernel_and_bias(f"{key}.conv2_kxk", f"{ours}/depthwise", DEPTHWISE)
    yield from kernel_and_bias(f"{key}.conv3_1x1", f"{ours}/reduce", CONV)


def gated(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a gated MLP with its own norm."""
    yield from norm(f"{key}.norm", f"{ours}/norm")
    for theirs, name in _GATED.items():
        yield from kernel_and_bias(f"{key}.{theirs}", f"{ours}/{name}", LINEAR)


_TRUNK = "visual.trunk"


def counts(config: ViTaminClipConfig) -> Counts:
    """Blocks of both towers."""
    return {"block": config.vision.layers, **clip_text.counts(config.text)}


def table(config: ViTaminClipConfig, prefix: str = "") -> Table:
    """Rules of both towers.

    Args:
        config: their configuration.
        prefix: put in front of our paths.
    """
    last = f"{prefix}encoder/transformer/norm"
    like = f"{prefix}encoder/pool_norm/scale"
    return [
        *encoder(config.vision, _TRUNK, f"{prefix}encoder"),
        *clip_text.table(config.text, f"{prefix}text/", "text."),
        Initial(f"{last}/scale", 1.0, like),
        Initial(f"{last}/bias", 0.0, like),
        Ignored(f"{_TRUNK}.pos_embed", "UniTok has no positions"),
        Ignored(f"{_TRUNK}.fc_norm.*", "UniTok pools after its codes"),
        Ignored("visual.head.*", "UniTok pools after its codes"),
        Ignored("logit_scale", "UniTok's begins anew"),
    ]


# timm's names go on with the size of the images, which no parameter we take has.
_VISION = {
    "vitamin_small": VITAMIN_SMALL,
    "vitamin_base": VITAMIN_BASE,
    "vitamin_large": VITAMIN_LARGE,
    "vitamin_large2": VITAMIN_LARGE,  # with a larger text tower
    "vitamin_xlarge": VITAMIN_XLARGE,
}
SHAPE = ("widths", "depths", "hidden", "layers", "heads", "mlp")
CLIP_FIELDS: Fields = {"vision": PART, "text": PART}
VITAMIN_FIELDS: Fields = {
    **dict.fromkeys(SHAPE, written("vision_cfg.encoder")),
    "drop_path": written("vision_cfg.timm_drop_path"),
    **how("attention", "remat", "chunks", "dtype"),
}
TEXT_FIELDS: Fields = {
    "vocab_size": written("text_cfg.vocab_size"),
    "length": written("text_cfg.context_length"),
    "hidden": written("text_cfg.width"),
    "layers": written("text_cfg.layers"),
    "heads": written("text_cfg.heads"),
    "mlp": must(lambda config: 4 * config.hidden, "it is four times the width"),
    "embed": written("embed_dim"),
    "norm_eps": must(1e-5, "PyTorch's own, which nothing sets"),
    **how("attention", "remat", "dtype"),
}


def read_vitamin_clip(values: Values) -> ViTaminClipConfig:
    """Of `open_clip_config.json`; with nothing said, ViTamin-L-256.

    Raises:
        WeightsError: another image tower, or a text tower that UniTok does not have.
    """
    values = group(values, "model_cfg") or values
    refuse(values, quick_gelu=False)
    vision, text = group(values, "vision_cfg"), group(values, "text_cfg")
    refuse(text, hf_model_name=None, no_causal_mask=False, embed_cls=False)
    refuse(text, pool_type="argmax", proj_type="linear", mlp_ratio=4.0)
    default = ClipTextConfig()
    width = whole(text, "width", default.hidden)
    return ViTaminClipConfig(
        vision=_read_vision(vision),
        text=ClipTextConfig(
            vocab_size=whole(text, "vocab_size", default.vocab_size),
            length=whole(text, "context_length", default.length),
            hidden=width,
            layers=count(text, "layers", default.layers),
            heads=count(text, "heads", default.heads),
            mlp=4 * width,
            embed=whole(values, "embed_dim", default.embed),
        ),
    )


def _read_vision(vision: Values) -> ViTaminConfig:
    default = ViTaminConfig().drop_path
    drop_path = number(vision, "timm_drop_path", default, most=1.0, nullable=True)
    if "encoder" in vision:
        return read_shape(group(vision, "encoder"), drop_path)
    name = word(vision, "timm_model_name", "vitamin_large_256")
    size = name.rpartition("_")[0]
    if size not in _VISION:
        raise WeightsError(
            f"the source's timm_model_name is {name!r}; known are"
            f" {', '.join(_VISION)}, each with _ and its pictures' size behind it"
        )
    return read_shape(shape_of(_VISION[size]), drop_path)


def write_vitamin_clip(config: ViTaminClipConfig, source: Values) -> dict[str, Any]:
    """What `read_vitamin_clip` reads; `encoder` is of our own making."""
    text = config.text
    named = group(group(source, "model_cfg") or source, "vision_cfg")
    kept = {k: named[k] for k in ("timm_model_name", "timm_pool") if k in named}
    return {k: v for k, v in source.items() if k != "model_cfg"} | {
        "embed_dim": text.embed,
        "vision_cfg": {
            **kept,
            "encoder": shape_of(config.vision),
            "timm_drop_path": config.vision.drop_path,
        },
        "text_cfg": {
            "context_length": text.length,
            "vocab_size": text.vocab_size,
            "width": text.hidden,
            "heads": text.heads,
            "layers": text.layers,
        },
        "custom_text": True,
    }


def read_shape(shape: Values, drop_path: float) -> ViTaminConfig:
    """A ViTamin of what `shape_of` gave, or of the same as lists."""
    default = ViTaminConfig()
    return ViTaminConfig(
        widths=wholes(shape, "widths", default.widths),
        depths=wholes(shape, "depths", default.depths, most=1024),
        hidden=whole(shape, "hidden", default.hidden),
        layers=count(shape, "layers", default.layers),
        heads=count(shape, "heads", default.heads),
        mlp=whole(shape, "mlp", default.mlp),
        drop_path=drop_path,
    )


def shape_of(vision: ViTaminConfig) -> dict[str, Any]:
    """The fields of a ViTamin that its parameters' shapes follow from."""
    return {name: getattr(vision, name) for name in SHAPE}


def dropped_tensors(config: ViTaminClipConfig) -> list[str]:
    """What open_clip's class has that these towers have not."""
    del config
    return [
        "visual.trunk.pos_embed, visual.trunk.fc_norm, visual.head and logit_scale are"
        " not kept: open_clip loads the rest with strict=False only"
    ]


def _run(module: ViTaminClip) -> object:
    text = jnp.zeros((1, module.config.text.length), jnp.int32)
    return module(jnp.zeros((1, 32, 32, 3)), text)


def _parts(config: ViTaminClipConfig) -> Mapping[str, Part]:
    return {"text/": Part(config.text)}


NETWORK = Network("vitamin_clip", ViTaminClipConfig, ViTaminClip, _run, counts, _parts)
VITAMIN_CLIP = Format(
    "vitamin-clip",
    "ViTamin CLIPs of open_clip (jienengchen/ViTamin-L-256px), to start UniTok",
    ("visual.trunk.patch_embed.backbone.stem.conv1.weight", "text.text_projection"),
    (NETWORK,),
    (ViTaminClipConfig(),),
    table,
    {
        ViTaminClipConfig: CLIP_FIELDS,
        ViTaminConfig: VITAMIN_FIELDS,
        ClipTextConfig: TEXT_FIELDS,
    },
    read_vitamin_clip,
    write_vitamin_clip,
    prefixes=("module.",),
    changes=dropped_tensors,
)
