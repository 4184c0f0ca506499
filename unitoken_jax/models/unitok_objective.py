"""What UniTok's tokenizer is trained for (arXiv 2502.20321, section 3.2).

l1·L1 + l2·L2 + perceptual·LPIPS + quantization·VQ + contrastive·CLIP; an adversarial
term comes from the trainer.
"""

from dataclasses import dataclass, fields
from typing import Literal

import jax

from unitoken_jax.config import Amount, ConfigError, below_one, positive
from unitoken_jax.ops.chunks import split

PERCEPTUAL = "perceptual"
"""Name of the frozen network that measures the perceptual distance."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms; the defaults are the published ones.

    Attributes:
        supervision: which losses the tokenizer learns from; the quantizer's is always
            among them.
        l1: weight of the mean absolute difference.
        l2: weight of the mean squared difference.
        perceptual: weight of LPIPS; 0 needs no such network.
        quantization: weight of the codebook and commitment term.
        contrastive: weight of the image-text term.
        revival: weight of a term that pulls codes that no latent chose to the nearest
            latent; not published, for short trainings.
        decode_every: one in so many pictures is decoded and compared; every picture
            has the other terms.
        perceptual_every: one in so many of these has the perceptual term.
        perceptual_chunks: they pass the perceptual network in so many chunks, each
            computed again for the gradient.
        contrastive_chunk: texts compared with all pictures at once.
        usage_decay: of the moving histogram of codes, by step.
    """

    supervision: Literal["both", "reconstruction", "contrastive"] = "both"
    l1: Amount = 0.2
    l2: Amount = 1.0
    perceptual: Amount = 1.0
    quantization: Amount = 1.0
    contrastive: Amount = 1.0
    revival: Amount = 0.0
    decode_every: int = 1
    perceptual_every: int = 1
    perceptual_chunks: int = 1
    contrastive_chunk: int = 1024
    usage_decay: float = 0.99

    def __post_init__(self) -> None:
        counts = ("decode_every", "perceptual_every", "perceptual_chunks")
        positive(self, *counts, "contrastive_chunk")
        below_one(self, "usage_decay")

    @property
    def unread(self) -> dict[str, str]:
        """Fields that are set, to no default and not to 0, without effect → why."""
        alone = f"supervision is {self.supervision!r}, which"
        idle: dict[str, str] = {}
        if not self.reconstructs:
            names = ("l1", "l2", "perceptual", "decode_every", "perceptual_every")
            idle |= dict.fromkeys(names, f"{alone} decodes no images")
        elif not self.perceptual:
            idle["perceptual_every"] = "the weight perceptual is 0"
        if not self.contrasts:
            idle["contrastive"] = f"{alone} reads no texts"
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {
            name: why
            for name, why in idle.items()
            if getattr(self, name) not in (0, defaults[name])
        }

    @property
    def reconstructs(self) -> bool:
        """Whether pictures are decoded and compared."""
        return self.supervision != "contrastive"

    @property
    def contrasts(self) -> bool:
        """Whether pictures and texts are compared."""
        return self.supervision != "reconstruction"

    @property
    def whole_batch(self) -> bool:
        """Whether a term compares elements of a batch with each other."""
        # The revival looks for codes that nothing in the batch chose.
        return self.contrasts or self.revival > 0

    @property
    def frozen_models(self) -> tuple[str, ...]:
        """Names of the frozen networks it needs."""
        return (PERCEPTUAL,) if self.reconstructs and self.perceptual else ()


def every(images: jax.Array, step: int) -> jax.Array:
    """Return one in `step` of [B, …], without moving rows between devices.

    Raises:
        ConfigError: the batch does not divide.
    """
    if images.shape[0] % step:
        raise ConfigError(
            f"one in {step} of a batch of {images.shape[0]} pictures: choose divisors "
            "of the batch for objective.decode_every and perceptual_every"
        )
    return split(images, step)[0]
