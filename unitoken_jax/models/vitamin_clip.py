"""The towers of a ViTamin CLIP (arXiv 2404.02132) from which UniTok may start.

open_clip's own model adds positions to the image tokens, pools and projects them, and
has erf GELUs in the encoder's gated MLPs, where UniTok has none of the first three and
tanh GELUs (arXiv 2502.20321 and its code). These are its towers as UniTok computes
them.
"""

from dataclasses import dataclass, field

import jax
from flax import linen as nn

from unitoken_jax.models.clip_text import ClipText, ClipTextConfig
from unitoken_jax.models.vitamin import ViTaminConfig, ViTaminEncoder


@dataclass(frozen=True)
class ViTaminClipConfig:
    """Shape of the towers; the defaults are ViTamin-L's at 256 pixels, UniTok's.

    Attributes:
        vision: image tower.
        text: text tower.
    """

    vision: ViTaminConfig = field(default_factory=ViTaminConfig)
    text: ClipTextConfig = field(default_factory=ClipTextConfig)


class ViTaminClip(nn.Module):
    """The towers; parameters `encoder` and `text`, named as UniTok's are."""

    config: ViTaminClipConfig

    def setup(self) -> None:
        """Names the parts."""
        self.encoder = ViTaminEncoder(self.config.vision)
        self.text = ClipText(self.config.text)

    def __call__(
        self, images: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes images and texts.

        Args:
            images: float [B, H, W, 3] in [-1, 1].
            text: int32 [B, X].

        Returns:
            Image tokens float32 [B, h · w, D] and text vectors [B, E].
        """
        return self.encoder(images), self.text(text)
