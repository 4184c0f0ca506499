"""Questions with short answers about one picture, from its annotation and its colour.

Kinds that can be answered for a concept never seen: 'kind', 'yes_no', 'skin_tone',
'gender', 'color'. 'name' and 'country' ask for the concept itself.
"""

import random
import re
from collections.abc import Mapping

from data_pipelines.prepare.captions import country_of, head, skin_tones
from data_pipelines.prepare.colors import SPELLINGS
from data_pipelines.prepare.nouns import KINDS, Annotation, kind_of, may_be
from data_pipelines.storage.records import Question

_LONGEST_NAME = 5  # words
_BALANCING_ROUNDS = 50
_GENDER = re.compile(r"\b(man|woman|boy|girl)\b")
_COLORED_KINDS = frozenset({None, "clothing", "food", "plant", "animal", "tool"})
_COLORED_KINDS |= {"arrow", "heart", "shape", "vehicle", "instrument", "drink"}


def questions_of(
    annotation: Annotation,
    color: str | None,
    wrong_kinds: Mapping[str, float],
    seed: int,
) -> list[Question]:
    """The questions that the annotation of a picture can answer for certain.

    Args:
        annotation: A line of captions.jsonl with a clean caption.
        color: The name of the picture's colour if it has a single one.
        wrong_kinds: How likely every kind is asked about where it is wrong, of
            `balanced_kinds`.
        seed: Of the choice of the wrong kind.
    """
    caption = annotation["caption"]
    rng = random.Random(f"{seed}/questions/{annotation['image']}")
    return [
        *_name_questions(annotation),
        *_kind_questions(annotation, wrong_kinds, rng),
        *_person_questions(annotation),
        *_color_questions(caption, kind_of(annotation), color),
    ]


def balanced_kinds(kind_counts: Mapping[str, int]) -> dict[str, float]:
    """Weights of the kinds that are asked about where they are wrong.

    With them "is this an animal?" is answered by no as often as by yes, so that the
    question alone does not give the answer away.

    Args:
        kind_counts: How many pictures of every kind the data set has.
    """
    weights = {kind: float(count) for kind, count in kind_counts.items() if count}
    for _ in range(_BALANCING_ROUNDS):
        expected = dict.fromkeys(weights, 0.0)
        for kind, count in kind_counts.items():
            wrong = {k: w for k, w in weights.items() if not may_be(kind, k)}
            total = sum(wrong.values())
            for other, weight in wrong.items():
                expected[other] += count * weight / total
        weights = {
            kind: weight * kind_counts[kind] / max(expected[kind], 1e-9)
            for kind, weight in weights.items()
        }
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items()}


def _name_questions(annotation: Annotation) -> list[Question]:
    name = head(annotation)
    questions: list[Question] = []
    # "by …" begins with its artist's name
    if len(name.split()) <= _LONGEST_NAME and not name.startswith("by "):
        questions.append(_question("name", "what is this?", name))
    if country := country_of(annotation):
        questions.append(_question("country", "whose flag is this?", country))
    return questions


def _kind_questions(
    annotation: Annotation, wrong_kinds: Mapping[str, float], rng: random.Random
) -> list[Question]:
    kind = kind_of(annotation)
    if kind is None:
        return []
    questions = [_question("kind", "what kind of thing is this?", kind)]
    words = set(re.findall(r"\w+", annotation["caption"]))
    words.update(annotation["keywords"])
    wrong = {
        other: weight
        for other, weight in sorted(wrong_kinds.items())
        if not may_be(kind, other) and other not in words
    }
    asked, answer = kind, "yes"
    if wrong and rng.random() < 0.5:
        asked = rng.choices(list(wrong), list(wrong.values()))[0]
        answer = "no"
    questions.append(_question("yes_no", f"is this {KINDS[asked]}?", answer))
    return questions


def _person_questions(annotation: Annotation) -> list[Question]:
    if annotation["category"] not in ("people & body", "people"):
        return []
    questions: list[Question] = []
    tones = skin_tones(annotation["caption"])
    if len(tones) == 1:
        questions.append(_question("skin_tone", "what is the skin tone?", tones[0]))
    words = _GENDER.findall(annotation["caption"])
    if len(words) == 1:
        choices = "man or a woman" if words[0] in ("man", "woman") else "boy or a girl"
        questions.append(_question("gender", f"is this a {choices}?", words[0]))
    return questions


def _color_questions(
    caption: str, kind: str | None, color: str | None
) -> list[Question]:
    named = {SPELLINGS[word] for word in caption.split() if word in SPELLINGS}
    if color is None or kind not in _COLORED_KINDS or not named <= {color}:
        return []
    return [_question("color", "what color is this?", color)]


def _question(kind: str, question: str, answer: str) -> Question:
    return {"kind": kind, "question": question, "answer": answer}
