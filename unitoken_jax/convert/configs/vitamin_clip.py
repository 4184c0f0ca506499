"""ViTamin CLIPs: open_clip's model configuration, plain or as `model_cfg`."""

from typing import Any

from unitoken_jax.convert.configs.fields import Values, refuse
from unitoken_jax.convert.configs.unitok import read_shape, shape_of
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    VITAMIN_XLARGE,
    ViTaminConfig,
)
from unitoken_jax.models.vitamin_clip import ViTaminClipConfig

# timm's names go on with the size of the pictures, which no parameter we take has.
_VISION = {
    "vitamin_small": VITAMIN_SMALL,
    "vitamin_base": VITAMIN_BASE,
    "vitamin_large": VITAMIN_LARGE,
    "vitamin_large2": VITAMIN_LARGE,  # with a larger text tower
    "vitamin_xlarge": VITAMIN_XLARGE,
}


def read_vitamin_clip(values: Values) -> ViTaminClipConfig:
    """Of `open_clip_config.json`; with nothing said, ViTamin-L-256.

    Raises:
        WeightsError: another image tower, or a text tower that UniTok does not have.
    """
    values = values.get("model_cfg", values)
    refuse(values, "quick_gelu", False)
    vision, text = values.get("vision_cfg", {}), values.get("text_cfg", {})
    refuse(text, "hf_model_name", None, "no_causal_mask", False, "embed_cls", False)
    refuse(text, "pool_type", "argmax", "proj_type", "linear", "mlp_ratio", 4.0)
    default = ClipTextConfig()
    width = text.get("width", default.hidden)
    return ViTaminClipConfig(
        vision=_read_vision(vision),
        text=ClipTextConfig(
            vocab_size=text.get("vocab_size", default.vocab_size),
            length=text.get("context_length", default.length),
            hidden=width,
            layers=text.get("layers", default.layers),
            heads=text.get("heads", default.heads),
            mlp=4 * width,
            embed=values.get("embed_dim", default.embed),
        ),
    )


def _read_vision(vision: Values) -> ViTaminConfig:
    drop_path = vision.get("timm_drop_path", ViTaminConfig().drop_path)
    if "encoder" in vision:
        return read_shape(vision["encoder"], drop_path)
    name = vision.get("timm_model_name", "vitamin_large_256")
    size = name.rpartition("_")[0]
    if size not in _VISION:
        raise WeightsError(
            f"the source's timm_model_name is {name!r}; known are"
            f" {', '.join(_VISION)}, each with _ and its pictures' size behind it"
        )
    return read_shape(shape_of(_VISION[size]), drop_path)


def write_vitamin_clip(config: ViTaminClipConfig, source: Values) -> dict[str, Any]:
    """What `read_vitamin_clip` reads; `encoder` is of our own making.

    Raises:
        WeightsError: an MLP of the text tower that is not four times as wide.
    """
    text = config.text
    if text.mlp != 4 * text.hidden:
        raise WeightsError(
            f"open_clip's text towers have MLPs of {4 * text.hidden}, this one"
            f" {text.mlp}"
        )
    return dict(source) | {
        "embed_dim": text.embed,
        "vision_cfg": {
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
