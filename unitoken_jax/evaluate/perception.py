"""How images of a run look to networks that were trained elsewhere.

Reconstructions and drawings are compared with the held-out images as sets, and each
reconstruction with its original.
"""

import itertools
import logging
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from unitoken_jax.evaluate.config import PerceptionConfig
from unitoken_jax.evaluate.evaluator import (
    Evaluation,
    Evaluator,
    batches,
)
from unitoken_jax.evaluate.feature_networks.distribution import (
    compare,
    extract,
)
from unitoken_jax.evaluate.feature_networks.extractors import (
    FeatureExtractors,
    distances,
    load_extractors,
)
from unitoken_jax.evaluate.reconstruction import reconstruct
from unitoken_jax.evaluate.statistics.intervals import Measure, summarize
from unitoken_jax.generate.sampler import Trained

log = logging.getLogger(__name__)


class Perception(Evaluator[PerceptionConfig]):
    """Show reconstructions, and drawings if there are any, to other networks."""

    name: ClassVar[str] = "perception"
    sees_drawings: ClassVar[bool] = True

    def run(self) -> Evaluation:
        """Compare with held-out images by the networks whose weights are there."""
        config = self.config
        extractors = load_extractors(config.alexnet, config.inception, config.lpips)
        if not extractors:
            log.info(
                "perception: left out, it has no weights; get some by "
                "python -m unitoken_jax.convert.perceptual"
            )
            return Evaluation({}, {})
        trained = self.source.restore(self.name, config.stage)
        squares = self.source.squares(trained.data)
        some = self.source.nonempty(squares, "pictures")
        real = np.stack(list(itertools.islice(some, config.images)))
        side = min(real.shape[1:3])
        extractors = extractors.of_side(side)
        if not extractors:
            log.info("perception: left out, %d pixels are too few to be seen", side)
            return Evaluation({}, {})
        drawings = self.source.drawings
        drawn = {"drawings": np.stack(drawings)} if drawings else {}
        return evaluate(extractors, real, self._coded(trained, real), drawn, config)

    def _coded(self, trained: Trained, real: np.ndarray) -> np.ndarray:
        """Code and decode images, uint8 [N, H, W, 3]."""
        tokenizer = trained.system.image_tokenizer
        assert tokenizer is not None  # without one, none has this evaluator
        parts = []
        for batch, count in batches(real, self.config.distribution.batch):
            _, decoded, *_ = reconstruct(
                tokenizer, trained.params, batch, self.config.rounding
            )
            parts.append(np.asarray(decoded)[:count])
        return np.concatenate(parts)


def evaluate(
    extractors: FeatureExtractors,
    real: np.ndarray,
    reconstructed: np.ndarray | None,
    drawn: Mapping[str, np.ndarray],
    config: PerceptionConfig,
) -> Evaluation:
    """Compare what a run made with held-out images.

    Args:
        extractors: Networks.
        real: Held-out images, uint8 [N, H, W, 3].
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
        for pair in extractors.pairs:
            values = distances(
                pair,
                zip(real, reconstructed, strict=True),
                config.distribution.batch,
            )
            found[f"reconstructions/{pair.name}"] = summarize(values, unit="of 1")
    for network in extractors.features:
        reference = extract(network, real, config.distribution)
        for name, images in made.items():
            looked = extract(network, images, config.distribution)
            measures = compare(reference, looked, network.name, config.distribution)
            found |= {f"{name}/{key}": value for key, value in measures.items()}
    return Evaluation(found, {})
