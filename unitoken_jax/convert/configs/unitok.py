"""UniTok's tokenizer: the `args` of its checkpoints; and CLIP's text tower."""

from typing import Any

from unitoken_jax.convert.configs.fields import Values
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


def read_unitok(values: Values) -> UniTokConfig:
    """Of the `args` of a checkpoint.

    The files of February and of April 2025 have the same names, shapes and `args`; the
    older one has causal projections, which `causal=True` (of our own making) says.

    Raises:
        WeightsError: an encoder or projection that is not one of the published ones.
    """
    default = UniTokConfig()
    kind = values.get("quant_proj", "attn")
    if kind not in _PROJECTIONS:
        raise WeightsError(
            f"the source's quant_proj is {kind!r}; known are {', '.join(_PROJECTIONS)}"
        )
    return UniTokConfig(
        vision=_read_vision(values),
        text=read_clip_text(values),
        vocab_size=values.get("vocab_size", default.vocab_size),
        vocab_width=values.get("vocab_width", default.vocab_width),
        num_codebooks=values.get("num_codebooks", default.num_codebooks),
        projection="linear" if kind == "linear" else "attention",
        causal=values.get("causal", False),
        beta=values.get("vq_beta", default.beta),
    )


def write_unitok(config: UniTokConfig, source: Values) -> dict[str, Any]:
    """For the published loader, which takes unknown names as they are.

    Raises:
        WeightsError: a quantiser or projection that the published code does not have.
    """
    heads = config.vision.hidden // config.vocab_width
    if config.structure != "split" or config.projection_heads not in (None, heads):
        raise WeightsError(
            "the published UniTok splits its channels among the codebooks and has"
            f" {heads} heads in its projections; this one differs"
        )
    names = {
        name
        for name, vision in _VISION.items()
        if shape_of(vision) == shape_of(config.vision)
    }
    kinds = {ours: theirs for theirs, ours in _PROJECTIONS.items()}
    return dict(source) | {
        "model": names.pop() if names else "custom",
        "encoder": shape_of(config.vision),
        "drop_path": config.vision.drop_path,
        "vocab_size": config.vocab_size,
        "vocab_width": config.vocab_width,
        "num_codebooks": config.num_codebooks,
        "quant_proj": kinds[config.projection],
        "causal": config.causal,
        "vq_beta": config.beta,
        **write_clip_text(config.text, {}),
    }


def read_clip_text(values: Values) -> ClipTextConfig:
    """The fields of UniTok's `args` that are of the text tower."""
    default = ClipTextConfig()
    width = values.get("text_width", default.hidden)
    return ClipTextConfig(
        vocab_size=values.get("text_vocab_size", default.vocab_size),
        length=values.get("text_context_length", default.length),
        hidden=width,
        layers=values.get("text_layers", default.layers),
        heads=values.get("text_heads", default.heads),
        mlp=4 * width,
        embed=values.get("embed_dim", default.embed),
    )


def write_clip_text(config: ClipTextConfig, source: Values) -> dict[str, Any]:
    """The fields of UniTok's `args` that are of the text tower.

    Raises:
        WeightsError: an MLP that is not four times as wide.
    """
    if config.mlp != 4 * config.hidden:
        raise WeightsError(
            f"CLIP's text tower has MLPs of {4 * config.hidden}, this one {config.mlp}"
        )
    return dict(source) | {
        "text_width": config.hidden,
        "text_heads": config.heads,
        "text_layers": config.layers,
        "text_vocab_size": config.vocab_size,
        "text_context_length": config.length,
        "embed_dim": config.embed,
    }


def _read_vision(values: Values) -> ViTaminConfig:
    name = values.get("model", "vitamin_large")
    drop_path = values.get("drop_path", ViTaminConfig().drop_path)
    if values.get("encoder"):
        return read_shape(values["encoder"], drop_path)
    if name not in _VISION:
        raise WeightsError(
            f"the source's model is {name!r}; known are {', '.join(_VISION)}"
        )
    return read_shape(shape_of(_VISION[name]), drop_path)


def read_shape(shape: Values, drop_path: float) -> ViTaminConfig:
    """A ViTamin of what `shape_of` gave, or of the same as lists."""
    fields = dict(shape)
    fields |= {name: tuple(shape[name]) for name in ("widths", "depths")}
    return ViTaminConfig(**fields, drop_path=drop_path)


def shape_of(vision: ViTaminConfig) -> dict[str, Any]:
    """The fields of a ViTamin that its parameters' shapes follow from."""
    fields = ("widths", "depths", "hidden", "layers", "heads", "mlp")
    return {name: getattr(vision, name) for name in fields}
