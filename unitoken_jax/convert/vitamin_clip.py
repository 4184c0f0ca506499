"""ViTamin CLIPs of open_clip, of which UniTok takes the two towers.

As the published code does (`use_clip_pretrain`): positions, the norm after pooling, the
head and the logit scale are dropped, and the last norm of UniTok's encoder, which a
pooled ViTamin lacks, begins anew.
"""

from unitoken_jax.convert import clip_text, vitamin
from unitoken_jax.convert.table import Counts, Ignored, Initial, Table
from unitoken_jax.models.vitamin import ViTaminClipConfig

_TRUNK = "visual.trunk"


def counts(config: ViTaminClipConfig) -> Counts:
    """Blocks of both towers."""
    return {"block": config.vision.layers, **clip_text.counts(config.text)}


def table(config: ViTaminClipConfig, prefix: str = "") -> Table:
    """Rules of both towers.

    Args:
        config: their configuration.
        prefix: put in front of our paths.
    """
    norm = f"{prefix}encoder/transformer/norm"
    like = f"{prefix}encoder/pool_norm/scale"
    return [
        *vitamin.encoder(config.vision, _TRUNK, f"{prefix}encoder"),
        *clip_text.table(config.text, f"{prefix}text/", "text."),
        Initial(f"{norm}/scale", 1.0, like),
        Initial(f"{norm}/bias", 0.0, like),
        Ignored(f"{_TRUNK}.pos_embed", "UniTok has no positions"),
        Ignored(f"{_TRUNK}.fc_norm.*", "UniTok pools after its codes"),
        Ignored("visual.head.*", "UniTok pools after its codes"),
        Ignored("logit_scale", "UniTok's begins anew"),
    ]
