"""Whether drawings follow their prompts, judged by the model's own likelihood and eyes.

Two tests: is a held-out picture most likely under its own caption among shuffled ones,
and does the model recognise in its own drawing what it was asked to draw (a cycle).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unitoken_jax.config import Natural, Seed
from unitoken_jax.evaluate.answers import Reduce, words
from unitoken_jax.evaluate.batches import spread
from unitoken_jax.evaluate.measure import Evaluation, Measure, share, summarise
from unitoken_jax.evaluate.understanding import (
    accuracies,
    by_novelty,
    novel_accuracies,
)
from unitoken_jax.generate.assistant import Speaker, View
from unitoken_jax.generate.batches import Progress


class Captioned(NamedTuple):
    """A held-out picture, its caption and (kind, question, answer) about it.

    `novelty` names what is new in the picture; "" where that is not known.
    """

    view: View
    caption: str
    questions: Sequence[tuple[str, str, str]]
    novelty: str = ""


@dataclasses.dataclass(frozen=True)
class GenerationTestConfig:
    """What to measure.

    Attributes:
        pictures: How many held-out pictures are ranked.
        captions: Among how many captions, the right one included, K.
        drawings: How many held-out captions are drawn and asked about.
        kinds: Kinds of question asked about a drawing.
        seed: Of the shuffled captions and of the drawings.
        examples: How many drawings to show.
    """

    pictures: Natural = 48
    captions: int = 8
    drawings: Natural = 48
    kinds: tuple[str, ...] = ("name", "kind", "color", "count")
    seed: Seed = 0
    examples: Natural = 16

    @property
    def items(self) -> int:
        """How many held-out pictures the test takes."""
        return max(self.pictures, self.drawings)

    def __post_init__(self) -> None:
        if self.captions < 2:
            raise ValueError("captions must be at least 2: the right one and another")


def evaluate(
    assistant: Speaker,
    items: Sequence[Captioned],
    majorities: Mapping[str, str],
    config: GenerationTestConfig,
    progress: Progress = lambda done: None,
    *,
    keep: Callable[[Iterable[np.ndarray]], object] = lambda drawings: None,
    reduce: Reduce = words,
) -> Evaluation:
    """Measure how drawing follows the prompt.

    Args:
        assistant: Who draws and answers.
        items: Held-out pictures with captions, all different, at least two; as many
            as are ranked or drawn, see `GenerationTestConfig.items`.
        majorities: The most frequent training answer of each kind of question.
        config: See `GenerationTestConfig`.
        progress: Called with how much of `amount` is done since the last call.
        keep: Called with the drawings, for whoever looks at them again.
        reduce: When two answers say the same, see `answers.RULES`.

    Returns:
        Measures `caption_rank` (share of pictures that are most likely under their own
        caption, beside chance), `bits_per_code`, `cycle/{kind}` (answers about own
        drawings) and `cycle_real/{kind}` (the same questions about the real pictures,
        which bounds the former), each also by novelty, as `caption_rank_{novelty}` and
        `cycle_{novelty}/…`; samples `drawings` of {prompt, image, real, seed, answers}.
    """
    measures = _rank(assistant, items[: config.pictures], config, progress)
    drawn = items[: config.drawings]
    seeds = [config.seed + i for i in range(len(drawn))]
    images = assistant.draw([item.caption for item in drawn], seeds, progress)
    keep(images)
    asked = _asked(drawn, config)
    said: list[str] = []
    if asked:
        kinds, texts, truths = zip(*(question[1:] for question in asked), strict=True)
        for name, views in (
            ("cycle", [assistant.composer.view(image) for image in images]),
            ("cycle_real", [item.view for item in drawn]),
        ):
            answers = assistant.answer([views[q[0]] for q in asked], texts, progress)
            said = said or answers
            found = accuracies(kinds, truths, answers, majorities, reduce)
            measures |= {f"{name}/{kind}": value for kind, value in found.items()}
            columns = kinds, truths, answers
            novelties = [drawn[q[0]].novelty for q in asked]
            novel = novel_accuracies(found, novelties, columns, majorities, reduce)
            measures |= {
                f"{name}_{key}": value
                for key, value in novel.items()
                if key.endswith("/all")  # of each kind there are few
            }
    about: list[list[str]] = [[] for _ in drawn]
    for (i, _, question, truth), answer in zip(asked, said, strict=True):
        mark = "✓" if reduce(answer) == reduce(truth) else "✗"
        about[i].append(f"{question} {answer} {mark}")
    return Evaluation(
        measures,
        {
            "drawings": [
                {
                    "prompt": drawn[i].caption,
                    "image": images[i],
                    "real": drawn[i].view.whole,
                    "seed": seeds[i],
                    "answers": "; ".join(about[i]),
                }
                for i in spread(len(drawn), config.examples)
            ]
        },
    )


def amount(items: Sequence[Captioned], config: GenerationTestConfig) -> int:
    """Count what `evaluate` scores, draws and asks, for a progress bar."""
    ranked = min(config.pictures, len(items))
    drawn = items[: config.drawings]
    scores = ranked * min(config.captions, ranked)
    return scores + len(drawn) + 2 * len(_asked(drawn, config))


def _asked(
    drawn: Sequence[Captioned], config: GenerationTestConfig
) -> list[tuple[int, str, str, str]]:
    """List which drawing is asked what: its place, kind, question and right answer."""
    return [
        (i, *question)
        for i, item in enumerate(drawn)
        for question in item.questions
        if question[0] in config.kinds
    ]


def _rank(
    assistant: Speaker,
    items: Sequence[Captioned],
    config: GenerationTestConfig,
    progress: Progress,
) -> dict[str, Measure]:
    """Compare the likelihood of each picture under its own and under other captions."""
    captions = min(config.captions, len(items))
    rng = np.random.default_rng(config.seed)
    # Row i: picture i's own caption first, then other ones.
    choice = np.stack(
        [
            np.append(i, rng.permutation(np.delete(np.arange(len(items)), i)))
            for i in range(len(items))
        ]
    )[:, :captions]
    codes = assistant.encode([item.view.whole for item in items])
    scores = assistant.score(
        [items[j].caption for j in choice.ravel()],
        np.repeat(codes, captions, axis=0),
        progress,
    ).reshape(choice.shape)
    # A tie counts against the model: it has not told the captions apart.
    best = scores[:, 0] > scores[:, 1:].max(axis=1)
    per_code = -scores[:, 0] / (np.log(2) * codes[0].size)
    found = {"caption_rank": share(int(best.sum()), len(items), 1 / captions, "chance")}
    for name, places in by_novelty([item.novelty for item in items]).items():
        hits = int(best[places].sum())
        found[f"caption_rank_{name}"] = share(hits, len(places), 1 / captions, "chance")
    return found | {"bits_per_code": summarise(per_code, unit="bits")}
