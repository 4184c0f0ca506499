"""How many answers are right, and how many bits of the right ones are not known.

By kind of question and by what is new in the image, beside what knowing the frequencies
of training's answers reaches.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from unitoken_jax.evaluate.statistics.answers import Reduce, words
from unitoken_jax.evaluate.statistics.intervals import Measure, proportion, summarize

BASELINE = "most frequent training answer"
BLIND = "frequencies of training answers"

Counts = Mapping[str, Counter[str]]
"""How often training gives each answer, reduced, by kind of question."""


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
        return proportion(hits, len(rows), blind / len(rows), BASELINE)

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
        return summarize(
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
