"""UniToken as its authors publish it: decoder, SigLIP tower and adapter in one file."""

from unitoken_jax.convert import chameleon, siglip
from unitoken_jax.convert.layouts import LINEAR
from unitoken_jax.convert.table import Counts, Rule, Table
from unitoken_jax.models.unitoken import UniTokenConfig


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
            rules.append(Rule(f"adapter.{theirs}.weight", f"{path}/kernel", LINEAR))
            rules.append(Rule(f"adapter.{theirs}.bias", f"{path}/bias"))
    return rules
