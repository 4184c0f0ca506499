"""Answers to questions about held-out images, by kind of question and of novelty.

Two measures: how often the answer given is the right one, and how many bits of the
right one the model does not know. The second moves long before the first does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import decode_image
from data_pipelines.prompts import ImageInputs
from data_pipelines.storage import records
from unitoken_jax.evaluate.config import UnderstandingConfig
from unitoken_jax.evaluate.evaluator import (
    EvaluatedRun,
    Evaluation,
    Evaluator,
    evenly_spaced,
    progress_bar,
)
from unitoken_jax.evaluate.statistics.accuracy import (
    Counts,
    accuracies,
    answer_bits,
    majority,
    novel_accuracies,
)
from unitoken_jax.evaluate.statistics.answers import Reduce, words
from unitoken_jax.generate.batches import Progress
from unitoken_jax.generate.sampler import Sampler


class Question(NamedTuple):
    """A question about an image, with its right answer.

    `novelty` names what is new in the image; "" where that is not known.
    """

    view: ImageInputs
    kind: str
    question: str
    answer: str
    novelty: str = ""


class Understanding(Evaluator[UnderstandingConfig]):
    """Ask held-out questions, in random order so that no image prevails."""

    name: ClassVar[str] = "understanding"

    def run(self) -> Evaluation:
        """Ask, and measure accuracy and bits of the right answers."""
        source = self.source
        sampler = source.sampler
        questions = held_out_questions(source, self.config)
        # Each is answered, then its right answer is scored.
        with progress_bar("answering", 2 * len(questions)) as bar:
            return evaluate(
                sampler,
                questions,
                source.answer_counts,
                self.config,
                bar.update,
                reduce=source.reduce,
            )


def held_out_questions(
    source: EvaluatedRun, config: UnderstandingConfig
) -> list[Question]:
    """Choose the questions that are asked; those that cannot be are set aside.

    Raises:
        DataError: There are none.
    """
    every = source.questions()
    built: dict[int, Question] = {}

    def usable(place: int) -> bool:
        number, question = every[place]
        record = source.heldout[number]
        found = source.set_aside.take(
            record["id"], lambda: _question(source, record, question)
        )
        if found is not None:
            built[place] = found
        return found is not None

    kinds = [question["kind"] for _, question in every]
    questions = [built[place] for place in choose(kinds, config, usable)]
    if not questions:
        raise DataError(
            f"split {source.config.split!r} has no questions of the kinds wanted by "
            "evaluation.understanding.kinds"
        )
    return questions


def _question(
    source: EvaluatedRun, record: records.Record, question: records.Question
) -> Question:
    image = decode_image(record, policy=source.heldout.manifest.image_policy)
    view = source.sampler.prompts.view(image)
    texts = question["question"], question["answer"]
    source.check_room(view, *texts)
    return Question(view, question["kind"], *texts, source.novelty(record))


def evaluate(
    sampler: Sampler,
    questions: Sequence[Question],
    counts: Counts,
    config: UnderstandingConfig,
    progress: Progress = lambda done: None,
    *,
    reduce: Reduce = words,
) -> Evaluation:
    """Ask held-out questions and compare the answers.

    Args:
        sampler: Who answers.
        questions: Held-out questions, at least one; see `choose`.
        counts: Counts of training answers, from `count_answers`.
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
    answers = sampler.answer(views, texts, progress)
    kinds, truths = [q.kind for q in questions], [q.answer for q in questions]
    nats = sampler.score_answers(views, texts, truths, progress)
    bits = answer_bits(kinds, truths, nats, counts, reduce)
    majorities = majority(counts)
    measures = accuracies(kinds, truths, answers, majorities, reduce)
    novelties, columns = [q.novelty for q in questions], (kinds, truths, answers)
    novel = novel_accuracies(measures, novelties, columns, majorities, reduce)
    return Evaluation(
        {f"accuracy/{name}": measure for name, measure in measures.items()}
        | {f"accuracy_{name}": measure for name, measure in novel.items()}
        | {f"bits_per_answer/{name}": measure for name, measure in bits.items()},
        _examples(questions, answers, config.examples, reduce),
    )


def _examples(
    questions: Sequence[Question],
    answers: Sequence[str],
    wanted: int,
    reduce: Reduce,
) -> dict[str, list[Mapping[str, object]]]:
    """Choose questions that were answered right, and ones that were not."""
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
    return {
        name: [group[i] for i in evenly_spaced(len(group), wanted)]
        for name, group in (("right", right), ("wrong", wrong))
    }


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
