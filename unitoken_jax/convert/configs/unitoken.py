"""UniToken: a Chameleon's configuration with a little more."""

from typing import Any

from unitoken_jax.convert.configs.decoder import read_chameleon, write_lumina
from unitoken_jax.convert.configs.fields import (
    PART,
    Fields,
    Values,
    flag,
    group,
    how,
    must,
    number,
    usual,
    written,
)
from unitoken_jax.convert.configs.siglip import read_vision, write_vision
from unitoken_jax.convert.table import WeightsError
from unitoken_jax.models.siglip import SiglipVisionConfig
from unitoken_jax.models.unitoken import UniTokenConfig

_TOWER = SiglipVisionConfig()
_IN_CODE = "its image tower is SO400M/14 at 384 pixels"


def _norm_eps(config: SiglipVisionConfig) -> float:
    return _TOWER.norm_eps if _is_released(config) else config.norm_eps


def _heads(config: SiglipVisionConfig) -> int:
    """Heads show in no shape: they may differ only where the code must be changed."""
    return _TOWER.heads if _is_released(config) else config.heads


def _is_released(config: SiglipVisionConfig) -> bool:
    names = ("hidden", "mlp", "layers", "image", "patch")
    return all(getattr(config, name) == getattr(_TOWER, name) for name in names)


VISION: Fields = {
    **{
        name: usual(getattr(_TOWER, name), _IN_CODE, f"vision_config.{theirs}")
        for name, theirs in (
            ("hidden", "hidden_size"),
            ("mlp", "intermediate_size"),
            ("layers", "num_hidden_layers"),
            ("image", "image_size"),
            ("patch", "patch_size"),
            ("head", "vision_use_head"),
        )
    },
    "heads": must(_heads, _IN_CODE, "vision_config.num_attention_heads"),
    "norm_eps": must(_norm_eps, _IN_CODE, "vision_config.layer_norm_eps"),
    **how("attention", "remat", "dtype"),
}
UNITOKEN: Fields = {
    "decoder": PART,
    "vision": PART,
    "z_loss": written("z_loss_weight"),
    "first_image_code": written("vocabulary_map"),
    "last_image_code": written("vocabulary_map"),
    "mask_image_logits": written("mask_image_logits"),
    **how("loss_chunk"),
}


def read_unitoken(values: Values) -> UniTokenConfig:
    """Of `config.json` of UniToken, which does not describe its image tower.

    Files written by `write_unitoken` do, in `vision_config`; others have SO400M/14.
    """
    vision = group(values, "vision_config")
    names = group(values, "vocabulary_map")
    codes = [token for name, token in names.items() if name.startswith("IMGIMG")]
    if not all(isinstance(code, int) for code in codes):
        raise WeightsError("the source's vocabulary_map has image codes without an id")
    default = UniTokenConfig()
    return UniTokenConfig(
        decoder=read_chameleon(values),
        vision=read_vision(vision) if vision else default.vision,
        z_loss=number(values, "z_loss_weight", default.z_loss),
        first_image_code=min(codes, default=default.first_image_code),
        last_image_code=max(codes, default=default.last_image_code),
        mask_image_logits=flag(values, "mask_image_logits", False),
    )


def write_unitoken(config: UniTokenConfig, source: Values) -> dict[str, Any]:
    """For the published class of UniToken, whose image tower it adds.

    Raises:
        WeightsError: there is no image tower.
    """
    if config.vision is None:
        raise WeightsError(
            "unitoken cannot hold this model: vision=None, and the published class"
            " always has an image tower, which it would fill with random numbers; use"
            " lumina"
        )
    return write_lumina(config.decoder, source) | {
        "z_loss_weight": config.z_loss,
        "mask_image_logits": config.mask_image_logits,
        "vision_config": write_vision(config.vision),
    }
