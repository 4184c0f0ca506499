"""How pictures of a run look to networks that were trained elsewhere.

Reconstructions and drawings are compared with the held-out pictures as sets, and each
reconstruction with its original.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from unitoken_jax.config import Count
from unitoken_jax.evaluate.distribution import DistributionConfig, compare, extract
from unitoken_jax.evaluate.measure import Evaluation, Measure, summarise
from unitoken_jax.evaluate.networks import Judges, distances
from unitoken_jax.files import OptionalPath
from unitoken_jax.ops.pixels import Rounding


@dataclasses.dataclass(frozen=True)
class PerceptionConfig:
    """What to measure; a network without weights is left out.

    Attributes:
        stage: The training stage whose tokenizer is measured; "" is the last of them.
        pictures: At most how many held-out pictures.
        rounding: How reconstructed pixels become bytes; UniTok's rFID says "round".
        alexnet: Weights of the package `stlpips-pytorch`, see
            `python -m unitoken_jax.convert.perceptual`.
        inception: Published weights of the FID's Inception, or a conversion of them.
        lpips: Published weights of LPIPS with VGG16, or a conversion of them.
        distribution: How sets are compared.
    """

    stage: str = ""
    pictures: Count = 512
    rounding: Rounding = "truncate"
    alexnet: OptionalPath = "data/perceptual/stlpips_alex.safetensors"
    inception: OptionalPath = ""
    lpips: OptionalPath = ""
    distribution: DistributionConfig = dataclasses.field(
        default_factory=DistributionConfig
    )


def evaluate(
    judges: Judges,
    real: np.ndarray,
    reconstructed: np.ndarray | None,
    drawn: Mapping[str, np.ndarray],
    config: PerceptionConfig,
) -> Evaluation:
    """Compare what a run made with held-out pictures.

    Args:
        judges: Networks.
        real: Held-out pictures, uint8 [N, H, W, 3].
        reconstructed: The same, coded and decoded, or None.
        drawn: Drawings by name of their kind, uint8 [M, H, W, 3].
        config: See `PerceptionConfig`.

    Returns:
        Measures `reconstructions/…` and `NAME/…` of the drawings, see
        `distribution.compare`, and the networks' distances `reconstructions/LPIPS`.
    """
    made = dict(drawn)
    if reconstructed is not None:
        made = {"reconstructions": reconstructed} | made
    found: dict[str, Measure] = {}
    if reconstructed is not None:
        for pair in judges.pairs:
            values = distances(
                pair,
                zip(real, reconstructed, strict=True),
                config.distribution.batch,
            )
            found[f"reconstructions/{pair.name}"] = summarise(values, unit="of 1")
    for network in judges.features:
        reference = extract(network, real, config.distribution)
        for name, pictures in made.items():
            looked = extract(network, pictures, config.distribution)
            measures = compare(reference, looked, network.name, config.distribution)
            found |= {f"{name}/{key}": value for key, value in measures.items()}
    return Evaluation(found, {})
