"""Whether a class-conditional generator knows its classes, and what it draws of them.

The first is judged by its own likelihood: is a held-out picture most likely under its
own class? Published evaluations compare tens of thousands of drawings with real
pictures by FID instead, see `evaluate.distribution`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from unitoken_jax.config import Count, Natural, Seed
from unitoken_jax.evaluate.batches import spread
from unitoken_jax.evaluate.measure import Evaluation, share, summarise
from unitoken_jax.generate.assistant import Speaker
from unitoken_jax.generate.batches import Progress


class Classified(NamedTuple):
    """A held-out picture, uint8 [H, W, 3], and its class."""

    picture: np.ndarray
    name: str


@dataclasses.dataclass(frozen=True)
class ClassTestConfig:
    """What to measure.

    Attributes:
        pictures: How many held-out pictures are told apart.
        drawings: How many pictures are drawn, class after class.
        without: Classes that are not told apart.
        seed: Of the first drawing.
        examples: How many drawings to show.
    """

    pictures: Count = 64
    drawings: Natural = 32
    without: tuple[str, ...] = ()
    seed: Seed = 0
    examples: Natural = 24


def evaluate(
    artist: Speaker,
    items: Sequence[Classified],
    names: Sequence[str],
    config: ClassTestConfig,
    progress: Progress = lambda done: None,
    *,
    keep: Callable[[Iterable[np.ndarray]], object] = lambda drawings: None,
) -> Evaluation:
    """Measure how the classes are told apart, and draw some of each.

    Args:
        artist: Who draws.
        items: Held-out pictures of known classes.
        names: Of all classes.
        config: See `ClassTestConfig`.
        progress: Called with how much of `amount` is done since the last call.
        keep: Called with the drawings, for whoever looks at them again.

    Returns:
        Measures `class_rank` (share of pictures that are most likely under their own
        class, beside the share of the most frequent one) and `bits_per_code`; samples
        `drawings` of {prompt, image, seed}.
    """
    codes = artist.encode([item.picture for item in items])
    scores = artist.score(
        [name for _ in items for name in names],
        np.repeat(codes, len(names), axis=0),
        progress,
    ).reshape(len(items), len(names))
    own = np.array([names.index(item.name) for item in items])
    found = int((np.argmax(scores, axis=1) == own).sum())
    most = int(np.bincount(own).max())
    per_code = -scores[np.arange(len(items)), own] / (np.log(2) * codes[0].size)
    prompts = [names[i % len(names)] for i in range(config.drawings)]
    seeds = [config.seed + i for i in range(config.drawings)]
    images = artist.draw(prompts, seeds, progress)
    keep(images)
    return Evaluation(
        {
            "class_rank": share(
                found, len(items), most / len(items), "most frequent class"
            ),
            "bits_per_code": summarise(per_code, unit="bits"),
        },
        {
            "drawings": [
                {"prompt": prompts[i], "image": images[i], "seed": seeds[i]}
                for i in spread(len(prompts), config.examples)
            ]
        },
    )


def amount(
    items: Sequence[Classified], names: Sequence[str], config: ClassTestConfig
) -> int:
    """Count what `evaluate` scores and draws, for a progress bar."""
    return len(items) * len(names) + config.drawings
