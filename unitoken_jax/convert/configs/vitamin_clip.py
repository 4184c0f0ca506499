"""ViTamin CLIPs: open_clip's model configuration, plain or as `model_cfg`."""

from typing import Any

from unitoken_jax.convert.configs.fields import (
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
    word,
    written,
)
from unitoken_jax.convert.configs.unitok import read_shape, shape_of
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    VITAMIN_XLARGE,
    ViTaminClipConfig,
    ViTaminConfig,
)

# timm's names go on with the size of the pictures, which no parameter we take has.
_VISION = {
    "vitamin_small": VITAMIN_SMALL,
    "vitamin_base": VITAMIN_BASE,
    "vitamin_large": VITAMIN_LARGE,
    "vitamin_large2": VITAMIN_LARGE,  # with a larger text tower
    "vitamin_xlarge": VITAMIN_XLARGE,
}
_SHAPE = ("widths", "depths", "hidden", "layers", "heads", "mlp")
CLIP: Fields = {"vision": PART, "text": PART}
VITAMIN: Fields = {
    **dict.fromkeys(_SHAPE, written("vision_cfg.encoder")),
    "drop_path": written("vision_cfg.timm_drop_path"),
    **how("attention", "remat", "chunks", "dtype"),
}
TEXT: Fields = {
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
    refuse(values, "quick_gelu", False)
    vision, text = group(values, "vision_cfg"), group(values, "text_cfg")
    refuse(text, "hf_model_name", None, "no_causal_mask", False, "embed_cls", False)
    refuse(text, "pool_type", "argmax", "proj_type", "linear", "mlp_ratio", 4.0)
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


def dropped_tensors(config: ViTaminClipConfig) -> list[str]:
    """What open_clip's class has that these towers have not."""
    del config
    return [
        "visual.trunk.pos_embed, visual.trunk.fc_norm, visual.head and logit_scale are"
        " not kept: open_clip loads the rest with strict=False only"
    ]
