"""Whether drawings follow their prompts, judged by the model's own likelihood and eyes.

Two tests: is a held-out image most likely under its own caption among shuffled ones,
and does the model recognize in its own drawing what it was asked to draw (a cycle).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.prompts import ImageInputs
from data_pipelines.storage.records import Record
from unitoken_jax.evaluate.config import GenerationTestConfig
from unitoken_jax.evaluate.evaluator import (
    EvaluatedRun,
    Evaluation,
    Evaluator,
    evenly_spaced,
    progress_bar,
)
from unitoken_jax.evaluate.statistics.accuracy import (
    accuracies,
    by_novelty,
    majority,
    novel_accuracies,
)
from unitoken_jax.evaluate.statistics.answers import Reduce, words
from unitoken_jax.evaluate.statistics.intervals import Measure, proportion, summarize
from unitoken_jax.generate.batches import Progress
from unitoken_jax.generate.sampler import Sampler


class Captioned(NamedTuple):
    """A held-out image, its caption and (kind, question, answer) about it.

    `novelty` names what is new in the image; "" where that is not known.
    """

    view: ImageInputs
    caption: str
    questions: Sequence[tuple[str, str, str]]
    novelty: str = ""


Asked = tuple[int, str, str, str]
"""Which drawing is asked what: its place, kind, question and right answer."""


class Generation(Evaluator[GenerationTestConfig]):
    """Score held-out images under captions, draw captions, ask about the drawings."""

    name: ClassVar[str] = "generation"
    draws: ClassVar[bool] = True

    def run(self) -> Evaluation:
        """Rank, draw and ask."""
        source = self.source
        sampler = source.sampler
        chosen = captioned(source, self.config)
        with progress_bar("drawing", amount(chosen, self.config)) as bar:
            return evaluate(
                sampler,
                chosen,
                majority(source.answer_counts),
                self.config,
                bar.update,
                keep=source.drawings.extend,
                reduce=source.reduce,
            )


def captioned(source: EvaluatedRun, config: GenerationTestConfig) -> list[Captioned]:
    """Choose held-out images of different captions; what does not fit is set aside.

    Raises:
        DataError: There are fewer than two.
    """
    items: dict[str, Captioned] = {}
    for record, image in source.images():
        if len(items) == config.items:
            break
        for caption in record["captions"][:1]:
            if caption in items:
                continue
            view = source.set_aside.take(
                record["id"],
                lambda r=record, i=image: source.captioned_view(r, i),
            )
            if view is not None:
                questions = _questions(source, record, view, config)
                novelty = source.novelty(record)
                items[caption] = Captioned(view, caption, questions, novelty)
    if len(items) < 2:
        raise DataError(
            f"split {source.config.split!r} has fewer than two captioned pictures"
        )
    return list(items.values())


def _questions(
    source: EvaluatedRun,
    record: Record,
    view: ImageInputs,
    config: GenerationTestConfig,
) -> list[tuple[str, str, str]]:
    """List kinds, questions and answers of a record that will be asked."""
    found = []
    for question in record["questions"]:
        if question["kind"] not in config.kinds:
            continue
        text = question["question"]
        room = source.set_aside.take(
            record["id"], lambda t=text: source.check_room(view, t)
        )
        if room is not None:
            found.append((question["kind"], text, question["answer"]))
    return found


def evaluate(
    sampler: Sampler,
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
        sampler: Who draws and answers.
        items: Held-out images with captions, all different, at least two; as many
            as are ranked or drawn, see `GenerationTestConfig.items`.
        majorities: The most frequent training answer of each kind of question.
        config: See `GenerationTestConfig`.
        progress: Called with how much of `amount` is done since the last call.
        keep: Called with the drawings, for whoever looks at them again.
        reduce: When two answers say the same, see `answers.RULES`.

    Returns:
        Measures `caption_rank` (share of images that are most likely under their own
        caption, beside chance), `bits_per_code`, `cycle/{kind}` (answers about own
        drawings) and `cycle_real/{kind}` (the same questions about the real images,
        which bounds the former), each also by novelty, as `caption_rank_{novelty}` and
        `cycle_{novelty}/…`; samples `drawings` of {prompt, image, real, seed, answers}.
    """
    measures = _rank(sampler, items[: config.images], config, progress)
    drawn = items[: config.drawings]
    seeds = [config.seed + i for i in range(len(drawn))]
    drawings = sampler.draw([item.caption for item in drawn], seeds, progress)
    keep(drawings)
    asked = _asked(drawn, config)
    said: list[str] = []
    if asked:
        for name, views in (
            ("cycle", [sampler.prompts.view(image) for image in drawings]),
            ("cycle_real", [item.view for item in drawn]),
        ):
            texts = [question[2] for question in asked]
            answers = sampler.answer([views[q[0]] for q in asked], texts, progress)
            said = said or answers
            found = _cycle(drawn, asked, answers, majorities, reduce)
            measures |= {f"{name}{key}": value for key, value in found.items()}
    told = _told(asked, said, len(drawn), reduce)
    samples = [
        {
            "prompt": drawn[i].caption,
            "image": drawings[i],
            "real": drawn[i].view.whole,
            "seed": seeds[i],
            "answers": "; ".join(told[i]),
        }
        for i in evenly_spaced(len(drawn), config.examples)
    ]
    return Evaluation(measures, {"drawings": samples})


def _cycle(
    drawn: Sequence[Captioned],
    asked: Sequence[Asked],
    answers: Sequence[str],
    majorities: Mapping[str, str],
    reduce: Reduce,
) -> dict[str, Measure]:
    """Measure answers about drawings, or about the real images, by kind and novelty."""
    kinds, truths = [q[1] for q in asked], [q[3] for q in asked]
    found = accuracies(kinds, truths, answers, majorities, reduce)
    novelties = [drawn[q[0]].novelty for q in asked]
    columns = kinds, truths, answers
    novel = novel_accuracies(found, novelties, columns, majorities, reduce)
    return {f"/{kind}": value for kind, value in found.items()} | {
        f"_{key}": value
        for key, value in novel.items()
        if key.endswith("/all")  # of each kind there are few
    }


def _told(
    asked: Sequence[Asked], answers: Sequence[str], count: int, reduce: Reduce
) -> list[list[str]]:
    """Return the questions about each of `count` drawings with answers and marks."""
    about: list[list[str]] = [[] for _ in range(count)]
    for (i, _, question, truth), answer in zip(asked, answers, strict=True):
        mark = "✓" if reduce(answer) == reduce(truth) else "✗"
        about[i].append(f"{question} {answer} {mark}")
    return about


def amount(items: Sequence[Captioned], config: GenerationTestConfig) -> int:
    """Count what `evaluate` scores, draws and asks, for a progress bar."""
    ranked = min(config.images, len(items))
    drawn = items[: config.drawings]
    scores = ranked * min(config.captions, ranked)
    return scores + len(drawn) + 2 * len(_asked(drawn, config))


def _asked(drawn: Sequence[Captioned], config: GenerationTestConfig) -> list[Asked]:
    """List what is asked about the drawings."""
    return [
        (i, *question)
        for i, item in enumerate(drawn)
        for question in item.questions
        if question[0] in config.kinds
    ]


def _rank(
    sampler: Sampler,
    items: Sequence[Captioned],
    config: GenerationTestConfig,
    progress: Progress,
) -> dict[str, Measure]:
    """Compare the likelihood of each image under its own and under other captions."""
    captions = min(config.captions, len(items))
    rng = np.random.default_rng(config.seed)
    # Row i: image i's own caption first, then other ones.
    choice = np.stack(
        [
            np.append(i, rng.permutation(np.delete(np.arange(len(items)), i)))
            for i in range(len(items))
        ]
    )[:, :captions]
    codes = sampler.encode([item.view.whole for item in items])
    scores = sampler.score(
        [items[j].caption for j in choice.ravel()],
        np.repeat(codes, captions, axis=0),
        progress,
    ).reshape(choice.shape)  # [N · captions] → [N, captions]
    # A tie counts against the model: it has not told the captions apart.
    best = scores[:, 0] > scores[:, 1:].max(axis=1)
    per_code = -scores[:, 0] / (np.log(2) * codes[0].size)
    found = {
        "caption_rank": proportion(int(best.sum()), len(items), 1 / captions, "chance")
    }
    for name, places in by_novelty([item.novelty for item in items]).items():
        hits = int(best[places].sum())
        found[f"caption_rank_{name}"] = proportion(
            hits, len(places), 1 / captions, "chance"
        )
    return found | {"bits_per_code": summarize(per_code, unit="bits")}
