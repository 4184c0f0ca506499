"""Finding the caption of a picture, and the picture of a caption, among others."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from unitoken_jax.config import Count, Natural
from unitoken_jax.evaluate.batches import batches, spread
from unitoken_jax.evaluate.measure import Evaluation, Measure, share, summarise
from unitoken_jax.generate.decode import Params, call
from unitoken_jax.models.siglip import Siglip
from unitoken_jax.models.unitok import UniTok
from unitoken_jax.ops import pixels

_SHOWN = 5  # answers shown with a query


class Pair(NamedTuple):
    """A picture, uint8 [H, W, 3], its caption and the caption's ids, int32 [X]."""

    image: np.ndarray
    caption: str
    text: np.ndarray


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """What to measure.

    Attributes:
        stage: The training stage whose SigLIP is measured; "" is the last of them.
        pairs: At most how many held-out pairs stand against each other.
        batch: Pairs embedded at once.
        ranks: The k of recall at k.
        without: Categories of records that are left out. Composed scenes by default:
            their backgrounds alone would tell many of them apart.
        examples: How many queries to show.
    """

    stage: str = ""
    pairs: Count = 256
    batch: Count = 64
    ranks: tuple[Count, ...] = (1, 5, 10)
    without: tuple[str, ...] = ("scene",)
    examples: Natural = 8


@functools.partial(jax.jit, static_argnames="model")
def embed(
    model: Siglip | UniTok, params: Params, images: jax.Array, text: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Embed pictures uint8 [B, H, W, 3] and texts int32 [B, X], both to [B, E]."""
    seen = pixels.normalize(images)
    return (
        call(model, params, "encode_image", seen),
        call(model, params, "encode_text", text),
    )


def rank(similarity: np.ndarray) -> np.ndarray:
    """Count what stands before the right answer of each query, on the diagonal.

    Args:
        similarity: Queries × candidates, [N, N].

    Returns:
        int [N]; 0 is found first. Candidates that tie with the right one stand before
        it, so that a collapsed model finds nothing.
    """
    own = np.diagonal(similarity)[:, None]
    return (similarity >= own).sum(1) - 1


def evaluate(
    model: Siglip | UniTok,
    params: Params,
    pairs: Iterable[Pair],
    config: RetrievalConfig,
) -> Evaluation:
    """Measure retrieval in both directions.

    Pairs whose caption has been seen already are left out: two pictures with the same
    caption are both right answers.

    Args:
        model: SigLIP or UniTok's tokenizer.
        params: Its parameters.
        pairs: Held-out pairs of one picture size and text length, at least one.
        config: See `RetrievalConfig`.

    Returns:
        Measures `image_to_text/recall@k`, `text_to_image/recall@k` beside chance and
        `…/median_rank`; samples of the same two names: {image, caption, rank, found},
        where found are the best answers, {image, caption, right}.
    """
    chosen: dict[str, Pair] = {}
    for pair in pairs:
        if len(chosen) == config.pairs:
            break
        chosen.setdefault(pair.caption, pair)
    captions = list(chosen)
    images = np.stack([pair.image for pair in chosen.values()])
    texts = np.stack([pair.text for pair in chosen.values()])
    parts = [
        [np.asarray(part)[:count] for part in embed(model, params, *batch)]
        for batch, count in batches((images, texts), config.batch)
    ]
    image_side, text_side = (np.concatenate(part) for part in zip(*parts, strict=True))
    similarity = image_side @ text_side.T  # [pictures, captions]
    sides = {"image_to_text": similarity, "text_to_image": similarity.T}
    measures: dict[str, Measure] = {}
    for name, side in sides.items():
        ranks, count = rank(side), len(captions)
        for k in config.ranks:
            measures[f"{name}/recall@{k}"] = share(
                int((ranks < k).sum()), count, min(1.0, k / count), "chance"
            )
        measures[f"{name}/median_rank"] = summarise(
            ranks + 1,
            np.median,
            unit=f"of {count}",
            baseline=(count + 1) / 2,
            against="chance",
            less_is_better=True,
        )
    return Evaluation(
        measures,
        {
            name: [
                {
                    "image": images[i],
                    "caption": captions[i],
                    "rank": int(rank(side)[i]) + 1,
                    "found": [
                        {"image": images[j], "caption": captions[j], "right": j == i}
                        for j in map(int, np.argsort(-side[i], kind="stable")[:_SHOWN])
                    ],
                }
                for i in spread(len(captions), config.examples)
            ]
            for name, side in sides.items()
        },
    )
