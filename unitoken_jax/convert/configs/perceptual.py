"""Networks of losses and of metrics, whose files do not describe themselves.

What is written are the arguments of the published constructors.
"""

from typing import Any, get_args, get_type_hints

from unitoken_jax.convert.configs.fields import (
    Fields,
    Values,
    count,
    how,
    must,
    number,
    usual,
    whole,
    wholes,
    word,
    written,
)
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.perceptual.dinov2 import Dinov2Config
from unitoken_jax.models.perceptual.inception import InceptionConfig
from unitoken_jax.models.perceptual.lpips import LpipsConfig
from unitoken_jax.models.perceptual.stlpips import StLpipsConfig


def _mlp(config: Dinov2Config) -> int:
    return int(config.hidden * (config.mlp / config.hidden))


DINOV2: Fields = {
    "hidden": written("embed_dim"),
    "mlp": must(_mlp, "the width times a ratio", "mlp_ratio"),
    "layers": written("depth"),
    "heads": written("num_heads"),
    "grid": written("img_size"),
    "patch": written("patch_size"),
    "norm_eps": must(1e-6, "nothing sets it"),
    **how("attention", "remat", "dtype"),
}
LPIPS: Fields = {
    "widths": usual(LpipsConfig().widths, "it is VGG16", "widths"),
    "depths": usual(LpipsConfig().depths, "it is VGG16", "depths"),
    **how("dtype"),
}
STLPIPS: Fields = {
    "widths": usual(StLpipsConfig().widths, "it is AlexNet", "widths"),
    "sizes": usual(StLpipsConfig().sizes, "it is AlexNet", "sizes"),
    **how("dtype"),
}
INCEPTION: Fields = {
    "resize": usual("tensorflow", "each library has its own resizing", "resize")
}


def read_dinov2(values: Values) -> Dinov2Config:
    """Of the arguments of DINOv2's constructor; without any, ViT-S/14."""
    default = Dinov2Config()
    hidden = whole(values, "embed_dim", default.hidden)
    patch = whole(values, "patch_size", default.patch)
    return Dinov2Config(
        hidden=hidden,
        mlp=max(1, int(hidden * number(values, "mlp_ratio", 4, most=1e6))),
        layers=count(values, "depth", default.layers),
        heads=count(values, "num_heads", default.heads),
        grid=max(1, whole(values, "img_size", default.grid * patch) // patch),
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
    config = LpipsConfig(
        widths=wholes(values, "widths", default.widths),
        depths=wholes(values, "depths", default.depths, most=1024),
    )
    _check_lengths(config.widths, config.depths, "depths")
    return config


def _check_lengths(widths: tuple[int, ...], others: tuple[int, ...], name: str) -> None:
    if len(widths) != len(others):
        raise WeightsError(
            f"the source's configuration has {len(widths)} widths and {len(others)}"
            f" {name}, of which each slice has one"
        )


def write_lpips(config: LpipsConfig, source: Values) -> dict[str, Any]:
    """Widths and depths of the slices."""
    del source
    return {"widths": list(config.widths), "depths": list(config.depths)}


def read_inception(values: Values) -> InceptionConfig:
    """As published unless the values say how pictures are resized."""
    default = InceptionConfig()
    resize: Any = word(values, "resize", default.resize)
    known = get_args(get_type_hints(InceptionConfig)["resize"])
    if resize not in known:
        raise WeightsError(
            f"the source's configuration has resize={resize!r}; known are"
            f" {', '.join(known)}"
        )
    return InceptionConfig(resize=resize)


def write_inception(config: InceptionConfig, source: Values) -> dict[str, Any]:
    """How pictures are resized."""
    del source
    return {"resize": config.resize}


def read_stlpips(values: Values) -> StLpipsConfig:
    """As published unless the values say otherwise; its own files say nothing."""
    default = StLpipsConfig()
    config = StLpipsConfig(
        widths=wholes(values, "widths", default.widths),
        sizes=wholes(values, "sizes", default.sizes),
    )
    _check_lengths(config.widths, config.sizes, "sizes")
    if len(config.widths) > len(default.widths):
        raise WeightsError(
            f"the source's configuration has {len(config.widths)} widths, and AlexNet"
            f" {len(default.widths)}"
        )
    return config


def write_stlpips(config: StLpipsConfig, source: Values) -> dict[str, Any]:
    """Widths and sizes of the convolutions."""
    del source
    return {"widths": list(config.widths), "sizes": list(config.sizes)}
