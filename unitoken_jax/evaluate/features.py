"""Whether an image tower still tells images apart, or its features have collapsed.

The effective rank (Roy & Vetterli 2007) of the images' features is the exponential of
the entropy of their singular values: 1 if all differ along one line only, at most the
number of images or dimensions.
"""

import functools
from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.config import ConfigError
from unitoken_jax.evaluate.config import FeaturesConfig
from unitoken_jax.evaluate.evaluator import (
    Evaluation,
    Evaluator,
    batches,
)
from unitoken_jax.evaluate.statistics.intervals import Measure
from unitoken_jax.models.siglip import SiglipVision
from unitoken_jax.models.system import Params, call
from unitoken_jax.ops import pixels


@functools.partial(jax.jit, static_argnames="model")
def extract(model: SiglipVision, params: Params, tiles: jax.Array) -> jax.Array:
    """Return features of images, averaged over their positions.

    Args:
        model: An image tower.
        params: Its parameters.
        tiles: uint8 [B, side, side, 3].

    Returns:
        float32 [B, D].
    """
    seen = call(model, params, "__call__", pixels.normalize(tiles))
    # [B, positions, D] → [B, D]
    return seen["tokens"].mean(axis=1).astype(jnp.float32)


def effective_rank(features: np.ndarray) -> float:
    """Effective rank of centered features [N, D], between 1 and min(N - 1, D)."""
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centered, compute_uv=False)
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def similarity(features: np.ndarray) -> float:
    """Mean cosine between the features [N, D] of two different images."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, 1e-12)
    count = len(unit)
    whole = float(np.square(unit.sum(axis=0)).sum())
    return (whole - float(np.square(unit).sum())) / (count * (count - 1))


class Features(Evaluator[FeaturesConfig]):
    """Show held-out images to the image tower of a stage's model."""

    name: ClassVar[str] = "features"

    def run(self) -> Evaluation:
        """Extract features of the whole view of each image."""
        trained = self.source.restore(self.name, self.config.stage)
        system = trained.system
        name = system.data.tower
        tower = system.value(name) if name else None
        if name is None or tower is None:
            raise ConfigError(
                "config.evaluation.features: the UniToken has no image tower; "
                "leave it out."
            )
        views = (self.source.view(*pair) for pair in self.source.images())
        tiles = (view.tiles[0] for view in views if view)
        some = self.source.nonempty(tiles, "pictures")
        params = trained.params[name]
        return evaluate(SiglipVision(tower), params, some, self.config)


def evaluate(
    model: SiglipVision,
    params: Params,
    tiles: Iterable[np.ndarray],
    config: FeaturesConfig,
) -> Evaluation:
    """Measure an image tower on images it has not seen.

    Args:
        model: The tower.
        params: Its parameters.
        tiles: The whole view of each image, uint8 [side, side, 3], at least two.
        config: See `FeaturesConfig`.

    Returns:
        Measures `effective_rank` and `similarity`, without samples.
    """
    images = np.stack(list(islice(tiles, config.images)))
    features = np.concatenate(
        [
            np.asarray(extract(model, params, batch))[:count]
            for batch, count in batches(images, config.batch)
        ]
    )
    most = min(len(features) - 1, features.shape[1])
    return Evaluation(
        {
            "effective_rank": Measure(
                effective_rank(features), len(features), unit=f"of {most}"
            ),
            "similarity": Measure(
                similarity(features), len(features), unit="mean cosine"
            ),
        },
        {},
    )
