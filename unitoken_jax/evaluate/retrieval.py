"""Finding the caption of an image, and the image of a caption, among others."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from data_pipelines.images import transforms
from unitoken_jax.evaluate.config import RetrievalConfig
from unitoken_jax.evaluate.evaluator import (
    Evaluation,
    Evaluator,
    batches,
    evenly_spaced,
)
from unitoken_jax.evaluate.statistics.intervals import Measure, proportion, summarize
from unitoken_jax.models.system import Params, call
from unitoken_jax.ops import pixels

_SHOWN = 5  # answers shown with a query


class Pair(NamedTuple):
    """An image, uint8 [H, W, 3], its caption and the caption's ids, int32 [X]."""

    image: np.ndarray
    caption: str
    text: np.ndarray


@functools.partial(jax.jit, static_argnames="model")
def embed(
    model: nn.Module, params: Params, squares: jax.Array, text: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Embed images uint8 [B, H, W, 3] and texts int32 [B, X], both to [B, E]."""
    seen = pixels.normalize(squares)
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


class Retrieval(Evaluator[RetrievalConfig]):
    """Let held-out images and captions find each other."""

    name: ClassVar[str] = "retrieval"

    def run(self) -> Evaluation:
        """Embed pairs with the towers of a stage, and rank them."""
        trained = self.source.restore(self.name, self.config.stage)
        data = trained.data
        encode = self.source.caption_encoder(self.name, data)

        def pairs() -> Iterator[Pair]:
            for record, image in self.source.images():
                if not record["captions"] or record["category"] in self.config.without:
                    continue
                caption = record["captions"][0]
                text = self.source.set_aside.take(
                    record["id"], lambda c=caption: encode(c)
                )
                if text is not None:
                    square = transforms.to_square(
                        image, data.image_size, data.background
                    )
                    yield Pair(square, caption, text)

        some = self.source.nonempty(pairs(), "captioned pictures")
        return evaluate(trained.system.module, trained.params, some, self.config)


def evaluate(
    model: nn.Module,
    params: Params,
    pairs: Iterable[Pair],
    config: RetrievalConfig,
) -> Evaluation:
    """Measure retrieval in both directions.

    Pairs whose caption has been seen already are left out: two images with the same
    caption are both right answers.

    Args:
        model: Has methods `encode_image`, from [B, H, W, 3] in [-1, 1], and
            `encode_text`, from int32 [B, X], both to [B, E].
        params: Its parameters.
        pairs: Held-out pairs of one image size and text length, at least one.
        config: See `RetrievalConfig`.

    Returns:
        Measures `image_to_text/recall@k`, `text_to_image/recall@k` beside chance and
        `…/median_rank`; samples of the same two names: {image, caption, rank, found},
        where found are the best answers, {image, caption, right}.
    """
    distinct: dict[str, Pair] = {}
    for pair in pairs:
        if len(distinct) == config.pairs:
            break
        distinct.setdefault(pair.caption, pair)
    chosen = list(distinct.values())
    arrays = np.stack([p.image for p in chosen]), np.stack([p.text for p in chosen])
    parts = [
        [np.asarray(part)[:count] for part in embed(model, params, *batch)]
        for batch, count in batches(arrays, config.batch)
    ]
    image_side, text_side = (np.concatenate(part) for part in zip(*parts, strict=True))
    similarity = image_side @ text_side.T  # [images, captions]
    sides = {"image_to_text": similarity, "text_to_image": similarity.T}
    measures: dict[str, Measure] = {}
    for name, side in sides.items():
        found = rank_measures(rank(side), config.ranks)
        measures |= {f"{name}/{key}": measure for key, measure in found.items()}
    shown = evenly_spaced(len(chosen), config.examples)
    return Evaluation(
        measures,
        {
            name: [_example(chosen, side[i], i) for i in shown]
            for name, side in sides.items()
        },
    )


def rank_measures(ranks: np.ndarray, recalls: Sequence[int]) -> dict[str, Measure]:
    """Measure recall and median rank.

    Args:
        ranks: From `rank`, int [N].
        recalls: The k of recall at k.
    """
    count = len(ranks)
    found = {
        f"recall@{k}": proportion(
            int((ranks < k).sum()), count, min(1.0, k / count), "chance"
        )
        for k in recalls
    }
    return found | {
        "median_rank": summarize(
            ranks + 1,
            np.median,
            unit=f"of {count}",
            baseline=(count + 1) / 2,
            against="chance",
            less_is_better=True,
        )
    }


def _example(pairs: Sequence[Pair], scores: np.ndarray, i: int) -> Mapping[str, object]:
    """Show query i with its best answers; scores of all candidates are [N]."""
    best = map(int, np.argsort(-scores, kind="stable")[:_SHOWN])
    # Of a single row, `rank` would take the first candidate for the right one.
    ahead = int((scores >= scores[i]).sum()) - 1
    return {
        "image": pairs[i].image,
        "caption": pairs[i].caption,
        "rank": ahead + 1,
        "found": [
            {"image": pairs[j].image, "caption": pairs[j].caption, "right": j == i}
            for j in best
        ],
    }
