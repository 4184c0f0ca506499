"""UniTok's tokenizer: the `args` of its checkpoints; and CLIP's text tower."""

from typing import Any

from unitoken_jax.convert.configs.fields import (
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
    wholes,
    word,
    written,
)
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    ViTaminConfig,
)

_VISION = {
    "vitamin_small": VITAMIN_SMALL,
    "vitamin_base": VITAMIN_BASE,
    "vitamin_large": VITAMIN_LARGE,
}
_PROJECTIONS = {"attn": "attention", "linear": "linear"}
_SHAPE = ("widths", "depths", "hidden", "layers", "heads", "mlp")


def _heads(config: UniTokConfig) -> int | None:
    """Heads of the projections; a linear one has none to differ."""
    heads = config.vision.hidden // config.vocab_width
    if config.projection == "linear" or config.projection_heads is None:
        return config.projection_heads
    return heads


TEXT: Fields = {
    "vocab_size": written("text_vocab_size"),
    "length": written("text_context_length"),
    "hidden": written("text_width"),
    "layers": written("text_layers"),
    "heads": written("text_heads"),
    "mlp": must(lambda config: 4 * config.hidden, "it is four times the width"),
    "embed": written("embed_dim"),
    "norm_eps": must(1e-5, "PyTorch's own, which nothing sets"),
    **how("attention", "remat", "dtype"),
}
VITAMIN: Fields = {
    **dict.fromkeys(_SHAPE, written("model", "encoder")),
    "drop_path": written("drop_path"),
    **how("attention", "remat", "chunks", "dtype"),
}
UNITOK: Fields = {
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
    refuse(values, "num_query", 0)
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


def read_clip_text(values: Values) -> ClipTextConfig:
    """The fields of UniTok's `args` that are of the text tower."""
    default = ClipTextConfig()
    width = whole(values, "text_width", default.hidden)
    return ClipTextConfig(
        vocab_size=whole(values, "text_vocab_size", default.vocab_size),
        length=whole(values, "text_context_length", default.length),
        hidden=width,
        layers=count(values, "text_layers", default.layers),
        heads=count(values, "text_heads", default.heads),
        mlp=4 * width,
        embed=whole(values, "embed_dim", default.embed),
    )


def write_clip_text(config: ClipTextConfig, source: Values) -> dict[str, Any]:
    """The fields of UniTok's `args` that are of the text tower."""
    return dict(source) | {
        "text_width": config.hidden,
        "text_heads": config.heads,
        "text_layers": config.layers,
        "text_vocab_size": config.vocab_size,
        "text_context_length": config.length,
        "embed_dim": config.embed,
    }


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
    return {name: getattr(vision, name) for name in _SHAPE}
