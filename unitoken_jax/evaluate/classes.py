"""Whether a class-conditional generator knows its classes, and what it draws of them.

The first is judged by its own likelihood: is a held-out image most likely under its
own class? Published evaluations compare tens of thousands of drawings with real
images by FID instead, see `feature_networks.distribution`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from data_pipelines.classes import class_names
from data_pipelines.errors import DataError
from unitoken_jax.evaluate.config import ClassTestConfig
from unitoken_jax.evaluate.evaluator import (
    Evaluation,
    Evaluator,
    evenly_spaced,
    progress_bar,
)
from unitoken_jax.evaluate.statistics.intervals import proportion, summarize
from unitoken_jax.generate.batches import Progress
from unitoken_jax.generate.sampler import Sampler


class Classified(NamedTuple):
    """A held-out image, uint8 [H, W, 3], and its class."""

    image: np.ndarray
    name: str


class Classes(Evaluator[ClassTestConfig]):
    """Tell held-out images of known classes apart, and draw some of each class."""

    name: ClassVar[str] = "classes"
    draws: ClassVar[bool] = True

    def run(self) -> Evaluation:
        """Score the images under every class, and draw."""
        artist = self.source.sampler
        names = class_names(self.source.experiment.data_dir)
        items: list[Classified] = []
        for record, image in self.source.images():
            name = record["category"]
            if name in names and name not in self.config.without:
                view = self.source.view(record, image)
                items += [Classified(view.whole, name)] if view else []
            if len(items) == self.config.images:
                break
        if not items:
            raise DataError(
                f"split {self.source.config.split!r} has no picture of a known class"
            )
        keep = self.source.drawings.extend
        with progress_bar("drawing", amount(items, names, self.config)) as bar:
            return evaluate(artist, items, names, self.config, bar.update, keep=keep)


def evaluate(
    artist: Sampler,
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
        items: Held-out images of known classes.
        names: The names of all classes.
        config: See `ClassTestConfig`.
        progress: Called with how much of `amount` is done since the last call.
        keep: Called with the drawings, for whoever looks at them again.

    Returns:
        Measures `class_rank` (share of images that are most likely under their own
        class, beside the share of the most frequent one) and `bits_per_code`; samples
        `drawings` of {prompt, image, seed}.
    """
    codes = artist.encode([item.image for item in items])
    scores = artist.score(
        [name for _ in items for name in names],
        np.repeat(codes, len(names), axis=0),
        progress,
    ).reshape(len(items), len(names))  # [items · names] → [items, names]
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
            "class_rank": proportion(
                found, len(items), most / len(items), "most frequent class"
            ),
            "bits_per_code": summarize(per_code, unit="bits"),
        },
        {
            "drawings": [
                {"prompt": prompts[i], "image": images[i], "seed": seeds[i]}
                for i in evenly_spaced(len(prompts), config.examples)
            ]
        },
    )


def amount(
    items: Sequence[Classified], names: Sequence[str], config: ClassTestConfig
) -> int:
    """Count what `evaluate` scores and draws, for a progress bar."""
    return len(items) * len(names) + config.drawings
