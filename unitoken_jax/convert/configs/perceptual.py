"""Networks of losses and of metrics, whose files do not describe themselves.

What is written are the arguments of the published constructors.
"""

from typing import Any

from unitoken_jax.convert.configs.fields import Values
from unitoken_jax.models.dinov2 import Dinov2Config
from unitoken_jax.models.inception import InceptionConfig
from unitoken_jax.models.lpips import LpipsConfig
from unitoken_jax.models.stlpips import StLpipsConfig


def read_dinov2(values: Values) -> Dinov2Config:
    """Of the arguments of DINOv2's constructor; without any, ViT-S/14."""
    default = Dinov2Config()
    hidden = values.get("embed_dim", default.hidden)
    patch = values.get("patch_size", default.patch)
    return Dinov2Config(
        hidden=hidden,
        mlp=int(hidden * values.get("mlp_ratio", 4)),
        layers=values.get("depth", default.layers),
        heads=values.get("num_heads", default.heads),
        grid=values.get("img_size", default.grid * patch) // patch,
        patch=patch,
    )


def write_dinov2(config: Dinov2Config, source: Values) -> dict[str, Any]:
    """The arguments of DINOv2's constructor."""
    del source
    return {
        "embed_dim": config.hidden,
        "mlp_ratio": config.mlp / config.hidden,
        "depth": config.layers,
        "num_heads": config.heads,
        "img_size": config.grid * config.patch,
        "patch_size": config.patch,
    }


def read_lpips(values: Values) -> LpipsConfig:
    """VGG16 unless the values say otherwise."""
    default = LpipsConfig()
    return LpipsConfig(
        widths=tuple(values.get("widths", default.widths)),
        depths=tuple(values.get("depths", default.depths)),
    )


def write_lpips(config: LpipsConfig, source: Values) -> dict[str, Any]:
    """Widths and depths of the slices."""
    del source
    return {"widths": list(config.widths), "depths": list(config.depths)}


def read_inception(values: Values) -> InceptionConfig:
    """As published unless the values say how pictures are resized."""
    return InceptionConfig(**{k: v for k, v in values.items() if k == "resize"})


def write_inception(config: InceptionConfig, source: Values) -> dict[str, Any]:
    """How pictures are resized."""
    del source
    return {"resize": config.resize}


def read_stlpips(values: Values) -> StLpipsConfig:
    """As published unless the values say otherwise; its own files say nothing."""
    known: dict[str, Any] = {
        k: tuple(values[k]) for k in ("widths", "sizes") if k in values
    }
    return StLpipsConfig(**known)


def write_stlpips(config: StLpipsConfig, source: Values) -> dict[str, Any]:
    """Widths and sizes of the convolutions."""
    del source
    return {"widths": list(config.widths), "sizes": list(config.sizes)}
