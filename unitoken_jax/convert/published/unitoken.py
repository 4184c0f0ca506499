"""UniToken as its authors publish it: decoder, SigLIP tower and adapter in one file."""

from collections.abc import Mapping
from typing import Any

from unitoken_jax.convert.fields import (
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
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import LINEAR
from unitoken_jax.convert.networks import Ids, Network, Part
from unitoken_jax.convert.published import chameleon, siglip
from unitoken_jax.convert.published.chameleon import (
    LUMINA_FIELDS,
    QK_NORM,
    read_chameleon,
    write_lumina,
)
from unitoken_jax.convert.published.siglip import read_vision, write_vision
from unitoken_jax.convert.table import Counts, Table, kernel_and_bias
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.siglip import SiglipVisionConfig
from unitoken_jax.models.unitoken import UniToken, UniTokenConfig


def counts(config: UniTokenConfig) -> Counts:
    """The number of layers, of the decoder and of the image tower."""
    layers = dict(chameleon.counts(config.decoder))
    if config.vision is not None:
        layers["vision_layer"] = config.vision.layers
    return layers


def table(config: UniTokenConfig, prefix: str = "") -> Table:
    """Rules of the whole model; the image tokenizer is a format of its own.

    Args:
        config: the model's configuration.
        prefix: put in front of our paths.
    """
    rules = list(chameleon.table(config.decoder, f"{prefix}decoder/"))
    if config.vision is not None:
        vision = siglip.table(
            config.vision, f"{prefix}vision/", key="vit.", layer="{vision_layer}"
        )
        rules += vision
        for theirs, ours in (("0", "up"), ("2", "down")):
            path = f"{prefix}adapter/{ours}"
            rules += kernel_and_bias(f"adapter.{theirs}", path, LINEAR)
    return rules


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


VISION_FIELDS: Fields = {
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
UNITOKEN_FIELDS: Fields = {
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
    found = [token for name, token in names.items() if name.startswith("IMGIMG")]
    codes = [code for code in found if isinstance(code, int)]
    if len(codes) < len(found):
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


def _parts(config: UniTokenConfig) -> Mapping[str, Part]:
    said = {"mask_image_logits": config.mask_image_logits}
    parts = {"decoder/": Part(config.decoder, said)}
    if config.vision is not None:
        parts["vision/"] = Part(config.vision, said)
    return parts


def _ids(config: UniTokenConfig) -> Ids:
    codes = config.first_image_code, config.last_image_code
    return Ids(config.decoder.vocab_size, codes)


NETWORK = Network(
    "unitoken", UniTokenConfig, UniToken, UniToken.initialize, counts, _parts, _ids
)
UNITOKEN = Format(
    "unitoken",
    "UniToken (SxJyJay/UniToken), Hugging Face folder",
    ("adapter.0.weight", *QK_NORM),
    (NETWORK,),
    (UniTokenConfig(),),
    table,
    {
        UniTokenConfig: UNITOKEN_FIELDS,
        DecoderConfig: LUMINA_FIELDS,
        SiglipVisionConfig: VISION_FIELDS,
    },
    read_unitoken,
    write_unitoken,
    names_ids=True,
)
