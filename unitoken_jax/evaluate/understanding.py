"""Answers to questions about held-out pictures, by kind of question and of novelty.

Two measures: how often the answer given is the right one, and how many bits of the
right one the model does not know. The second moves long before the first does.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unitoken_jax.config import Count, Natural
from unitoken_jax.evaluate.answers import Reduce, words
from unitoken_jax.evaluate.batches import spread
from unitoken_jax.evaluate.measure import Evaluation, Measure, share, summarise
from unitoken_jax.generate.assistant import Speaker, View
from unitoken_jax.generate.batches import Progress

BASELINE = "most frequent training answer"
BLIND = "frequencies of training answers"


Counts = Mapping[str, Counter[str]]
"""How often training gives each answer, reduced, by kind of question."""


class Question(NamedTuple):
    """A question about a picture, with its right answer.

    `novelty` names what is new in the picture; "" where that is not known.
    """

    view: View
    kind: str
    question: str
    answer: str
    novelty: str = ""


@dataclasses.dataclass(frozen=True)
class UnderstandingConfig:
    """What to measure.

    Attributes:
        questions: At most how many held-out questions of each kind.
        kinds: The kinds of question asked; empty for all there are.
        examples: How many right and how many wrong answers to show.
    """

    questions: Count = 48
    kinds: tuple[str, ...] = ()
    examples: Natural = 12


def count_answers(answers: Iterable[tuple[str, str]], reduce: Reduce = words) -> Counts:
    """Count the answers of each kind of question.

    Args:
        answers: Kind and answer of every training question.
        reduce: When two answers say the same, see `answers.RULES`.
    """
    counts: dict[str, Counter[str]] = {}
    for kind, answer in answers:
        counts.setdefault(kind, Counter())[reduce(answer)] += 1
    return counts


def majority(counts: Counts) -> dict[str, str]:
    """Find the most frequent answer of each kind of question.

    Of equally frequent answers the alphabetically first is taken.
    """
    return {
        kind: min(counter, key=lambda a, c=counter: (-c[a], a))
        for kind, counter in counts.items()
    }


def accuracies(
    kinds: Sequence[str],
    truths: Sequence[str],
    answers: Sequence[str],
    majorities: Mapping[str, str],
    reduce: Reduce = words,
) -> dict[str, Measure]:
    """Measure how many answers are right, over all and by kind, beside majority.

    Args:
        kinds: Of each question.
        truths: Its right answer.
        answers: What the model said.
        majorities: From `majority`.
        reduce: As in `count_answers`.
    """
    rows = list(zip(kinds, truths, answers, strict=True))

    def measure(rows: Sequence[tuple[str, str, str]]) -> Measure:
        hits = sum(reduce(said) == reduce(truth) for _, truth, said in rows)
        blind = sum(majorities.get(kind) == reduce(truth) for kind, truth, _ in rows)
        return share(hits, len(rows), blind / len(rows), BASELINE)

    by_kind = {
        kind: measure([row for row in rows if row[0] == kind])
        for kind in sorted(set(kinds))
    }
    return {"all": measure(rows), **by_kind}


def answer_bits(
    kinds: Sequence[str],
    truths: Sequence[str],
    nats: np.ndarray,
    counts: Counts,
    reduce: Reduce = words,
) -> dict[str, Measure]:
    """Measure what is not known of right answers, over all and by kind.

    Args:
        kinds: Of each question.
        truths: Its right answer.
        nats: Log-likelihood of that answer, [N].
        counts: Of training answers. The baseline knows their frequencies and the kind
            of the question; each kind has one more answer, seen once, for what training
            does not show.
        reduce: As in `count_answers`.
    """
    bits = -np.asarray(nats, np.float64) / np.log(2)
    pairs = zip(kinds, truths, strict=True)
    blind = np.array(
        [_blind_bits(counts.get(k, Counter()), reduce(t)) for k, t in pairs]
    )

    def measure(places: np.ndarray) -> Measure:
        known = float(blind[places].mean())
        return summarise(
            bits[places],
            unit="bits",
            baseline=known,
            against=BLIND,
            less_is_better=True,
        )

    groups = {kind: np.array(kinds) == kind for kind in sorted(set(kinds))}
    return {"all": measure(np.ones(len(bits), bool))} | {
        kind: measure(places) for kind, places in groups.items()
    }


def _blind_bits(counter: Counter[str], truth: str) -> float:
    seen = counter[truth] or 1
    return float(np.log2((counter.total() + 1) / seen))


def by_novelty(novelties: Sequence[str]) -> dict[str, list[int]]:
    """Group samples by what is new in them.

    Args:
        novelties: What is new in each sample; "" where that is not known.

    Returns:
        The places of the samples by the novelty's name, words joined by "_"; nothing
        if all samples are alike, for then there is nothing to tell apart.
    """
    names = sorted(set(novelties))
    if len(names) < 2:
        return {}
    return {
        name.replace(" ", "_"): [i for i, n in enumerate(novelties) if n == name]
        for name in names
        if name
    }


def novel_accuracies(
    measured: Mapping[str, Measure],
    novelties: Sequence[str],
    columns: tuple[Sequence[str], Sequence[str], Sequence[str]],
    majorities: Mapping[str, str],
    reduce: Reduce = words,
) -> dict[str, Measure]:
    """Measure accuracies again for each novelty on its own.

    Args:
        measured: Of all samples together, from `accuracies`.
        novelties: What is new in each sample, see `by_novelty`.
        columns: Kinds, truths and answers, as `accuracies` takes them.
        majorities: From `majority`.
        reduce: As in `count_answers`.

    Returns:
        `NOVELTY/all`, and `NOVELTY/KIND` of the kinds that are not all of one novelty.
    """
    found: dict[str, Measure] = {}
    for name, places in by_novelty(novelties).items():
        kinds, truths, answers = ([c[i] for i in places] for c in columns)
        part = accuracies(kinds, truths, answers, majorities, reduce)
        found |= {
            f"{name}/{kind}": value
            for kind, value in part.items()
            if kind == "all" or value.count < measured[kind].count
        }
    return found


def evaluate(
    assistant: Speaker,
    questions: Sequence[Question],
    counts: Counts,
    config: UnderstandingConfig,
    progress: Progress = lambda done: None,
    *,
    reduce: Reduce = words,
) -> Evaluation:
    """Ask held-out questions and compare the answers.

    Args:
        assistant: Who answers.
        questions: Held-out questions, at least one; see `choose`.
        counts: Of training answers, from `count_answers`.
        config: See `UnderstandingConfig`.
        progress: Called with the number of questions answered, and then of answers
            scored, since the last call.
        reduce: As in `count_answers`.

    Returns:
        Measures `accuracy/all` and `accuracy/{kind}` beside the baseline, and the
        same for each novelty as `accuracy_{novelty}/…`; `bits_per_answer/all` and
        `bits_per_answer/{kind}` of the right answers; samples `right` and `wrong` of
        {image, kind, question, answer, expected, correct}.
    """
    views, texts = [q.view for q in questions], [q.question for q in questions]
    answers = assistant.answer(views, texts, progress)
    kinds, truths = [q.kind for q in questions], [q.answer for q in questions]
    nats = assistant.score_answers(views, texts, truths, progress)
    bits = answer_bits(kinds, truths, nats, counts, reduce)
    majorities = majority(counts)
    measures = accuracies(kinds, truths, answers, majorities, reduce)
    novelties, columns = [q.novelty for q in questions], (kinds, truths, answers)
    novel = novel_accuracies(measures, novelties, columns, majorities, reduce)
    samples = [
        {
            "image": q.view.whole,
            "kind": q.kind,
            "question": q.question,
            "answer": said,
            "expected": q.answer,
            "correct": reduce(said) == reduce(q.answer),
        }
        for q, said in zip(questions, answers, strict=True)
    ]
    right = [sample for sample in samples if sample["correct"]]
    wrong = [sample for sample in samples if not sample["correct"]]
    return Evaluation(
        {f"accuracy/{name}": measure for name, measure in measures.items()}
        | {f"accuracy_{name}": measure for name, measure in novel.items()}
        | {f"bits_per_answer/{name}": measure for name, measure in bits.items()},
        {
            name: [group[i] for i in spread(len(group), config.examples)]
            for name, group in (("right", right), ("wrong", wrong))
        },
    )


def choose(
    kinds: Iterable[str],
    config: UnderstandingConfig,
    usable: Callable[[int], bool] = lambda place: True,
) -> list[int]:
    """Return which questions to ask: the first ones of each kind that is wanted.

    Args:
        kinds: The kind of every question there is, in an order without meaning.
        config: Which kinds, and how many of each.
        usable: Whether the question at a place can be asked; it is called for those
            only that would be. Of one that cannot, the next takes the place.
    """
    taken: Counter[str] = Counter()
    chosen = []
    for i, kind in enumerate(kinds):
        wanted = not config.kinds or kind in config.kinds
        if wanted and taken[kind] < config.questions and usable(i):
            taken[kind] += 1
            chosen.append(i)
    return chosen
