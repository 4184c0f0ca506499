"""How far a set of generated pictures is from a set of real ones, by their features.

With the FID's Inception the numbers are called by their published names (fid, kid,
inception_score); with any other network by its own (frechet_NETWORK), so that nobody
takes the one for the other.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from unitoken_jax.evaluate.config import DistributionConfig
from unitoken_jax.evaluate.feature_networks.extractors import FeatureNetwork, features
from unitoken_jax.evaluate.statistics import (
    frechet,
    inception_score,
    kid,
    precision_recall,
)
from unitoken_jax.evaluate.statistics.intervals import Measure, estimate, proportion

log = logging.getLogger(__name__)

INCEPTION = "inception"
"""Name of the network whose numbers are the published ones."""


class Features(NamedTuple):
    """What is known of a set of pictures.

    Attributes:
        moments: Mean and covariance of the features.
        rows: The features, float32 [N, D], or None where they are not kept.
        logits: Of the classes, float32 [N, C], or None.
    """

    moments: frechet.Moments
    rows: np.ndarray | None
    logits: np.ndarray | None


def extract(
    network: FeatureNetwork,
    images: Iterable[np.ndarray],
    config: DistributionConfig,
    progress: Callable[[int], object] = lambda done: None,
) -> Features:
    """Run pictures through a network, a batch in memory at a time.

    Args:
        network: What sees them.
        images: uint8 [H, W, 3], all of one size, at least one.
        config: See `DistributionConfig`.
        progress: Called with the number of pictures done since the last call.

    Raises:
        ValueError: There are no pictures, or they differ in size.
    """
    moments: frechet.Moments | None = None
    rows, logits = [], []
    for batch, count in _batches(images, config.batch):
        found = {
            name: np.asarray(value)[:count]
            for name, value in features(
                network.extract, network.module, network.params, batch
            ).items()
        }
        part = found["features"]
        if moments is None:
            moments = frechet.Moments(part.shape[1])
        moments.add(part)
        if config.keep:
            rows.append(part)
            logits += [found["logits"]] if "logits" in found else []
        progress(count)
    if moments is None:
        raise ValueError("there are no pictures")
    return Features(
        moments,
        np.concatenate(rows) if rows else None,
        np.concatenate(logits) if logits else None,
    )


def _batches(
    images: Iterable[np.ndarray], size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Stack pictures into batches of one size; the last one repeats its last."""
    images = iter(images)
    first: tuple[int, ...] | None = None
    while group := list(islice(images, size)):
        for image in group:
            first = first or image.shape
            if image.shape != first:
                raise ValueError(
                    f"one picture has {_sides(first)} pixels and another "
                    f"{_sides(image.shape)}; choose a preprocessing that gives all "
                    "of them one size"
                )
        count = len(group)
        yield np.stack(group + group[-1:] * (size - count)), count


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[0]}"


def compare(
    real: Features, generated: Features, name: str, config: DistributionConfig
) -> dict[str, Measure]:
    """Measure how far generated pictures are from real ones.

    Args:
        real: Features of the real pictures.
        generated: Features of the generated ones, by the same network.
        name: Of that network.
        config: See `DistributionConfig`.

    Returns:
        For the FID's Inception `fid`, `kid`, `inception_score`, and for any network
        `frechet_NAME`, `kernel_NAME`; then `precision_NAME` and `recall_NAME`. What
        needs more pictures than there are, or what was not kept, is left out.

    Raises:
        ValueError: One side has fewer than two pictures.
    """
    published = name == INCEPTION
    count = generated.moments.count
    value = frechet.distance(real.moments, generated.moments)
    half = None
    if real.rows is not None and generated.rows is not None:
        half = frechet.half_interval(
            real.rows, generated.rows, config.resamples, config.seed
        )
    title = "fid" if published else f"frechet_{name}"
    low, high = (None, None) if half is None else (max(0.0, value - half), value + half)
    found = {title: Measure(value, count, low, high, unit="FD")}
    if real.rows is None or generated.rows is None:
        return found
    if config.subsets:
        distances = kid.subset_distances(
            generated.rows,
            real.rows,
            subsets=config.subsets,
            size=config.subset,
            seed=config.seed,
        )
        title = "kid" if published else f"kernel_{name}"
        found[title] = estimate(distances, count, unit="MMD²")
    if published and generated.logits is not None and config.splits:
        if count >= config.splits:
            scores = inception_score.scores(
                generated.logits, config.splits, config.seed
            )
            found["inception_score"] = estimate(scores, count, unit="classes")
        else:
            log.info("inception_score: left out, %d pictures are too few", count)
    if config.neighbors:
        found |= _precision_and_recall(real.rows, generated.rows, name, config)
    return found


def _precision_and_recall(
    real: np.ndarray, generated: np.ndarray, name: str, config: DistributionConfig
) -> dict[str, Measure]:
    if min(len(real), len(generated)) <= config.neighbors:
        log.info("precision and recall: left out, too few pictures")
        return {}
    sides = {"precision": (generated, real), "recall": (real, generated)}
    found = {}
    for title, (samples, members) in sides.items():
        inside = precision_recall.covered(samples, members, config.neighbors)
        found[f"{title}_{name}"] = proportion(int(inside.sum()), len(inside))
    return found
