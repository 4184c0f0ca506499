"""UniToken: a Chameleon's configuration with a little more."""

from typing import Any

from unitoken_jax.convert.configs.decoder import read_chameleon, write_lumina
from unitoken_jax.convert.configs.fields import Values
from unitoken_jax.convert.configs.siglip import read_vision, write_vision
from unitoken_jax.models.unitoken import UniTokenConfig


def read_unitoken(values: Values) -> UniTokenConfig:
    """Of `config.json` of UniToken, which does not describe its image tower.

    Files written by `write_unitoken` do, in `vision_config`; others have SO400M/14.
    """
    vision = values.get("vision_config")
    codes = [
        token
        for name, token in (values.get("vocabulary_map") or {}).items()
        if name.startswith("IMGIMG")
    ]
    default = UniTokenConfig()
    return UniTokenConfig(
        decoder=read_chameleon(values),
        vision=read_vision(vision) if vision else default.vision,
        z_loss=values.get("z_loss_weight", default.z_loss),
        first_image_code=min(codes, default=default.first_image_code),
        last_image_code=max(codes, default=default.last_image_code),
        mask_image_logits=values.get("mask_image_logits", False),
    )


def write_unitoken(config: UniTokenConfig, source: Values) -> dict[str, Any]:
    """For the published class of UniToken, whose image tower it adds."""
    values = write_lumina(config.decoder, source) | {
        "z_loss_weight": config.z_loss,
        "mask_image_logits": config.mask_image_logits,
    }
    if config.vision is not None:
        values["vision_config"] = write_vision(config.vision)
    return values
