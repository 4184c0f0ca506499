"""Questions on pictures: right answers, and questions that do not tell them."""

from collections import Counter

from data_pipelines.prepare.nouns import KINDS, kind_of, may_be
from data_pipelines.prepare.questions import balanced_kinds, questions_of


def _annotation(caption, category, subcategory, image="images/1.webp"):
    return {
        "caption": caption,
        "category": category,
        "subcategory": subcategory,
        "image": image,
        "keywords": [],
    }


WEIGHTS = balanced_kinds(dict.fromkeys(KINDS, 10))


def _asked(annotation, color=None, weights=WEIGHTS, seed=0):
    questions = questions_of(annotation, color, weights, seed)
    return {(q["kind"], q["question"]): q["answer"] for q in questions}


def test_people():
    person = _annotation(
        "woman surfing: medium-dark skin tone", "people & body", "person-sport"
    )
    asked = _asked(person)
    assert asked["name", "what is this?"] == "woman surfing"
    assert asked["kind", "what kind of thing is this?"] == "person"
    assert asked["skin_tone", "what is the skin tone?"] == "medium-dark"
    assert asked["gender", "is this a man or a woman?"] == "woman"
    couple = _annotation(
        "kiss: woman, man, dark skin tone, light skin tone", "people & body", "family"
    )
    assert not {"skin_tone", "gender"} & {kind for kind, _ in _asked(couple)}


def test_flags_and_colors():
    flag = _annotation("flag: denmark", "flags", "country-flag")
    asked = _asked(flag, "red")
    assert asked["country", "whose flag is this?"] == "denmark"
    assert ("color", "what color is this?") not in asked
    heart = _annotation("red heart", "smileys & emotion", "heart")
    assert _asked(heart, "red")["color", "what color is this?"] == "red"
    assert "color" not in {kind for kind, _ in _asked(heart, "pink")}


def test_names_that_are_no_names_are_not_asked():
    for caption in ("by someone germany", "a caption of far too many words to answer"):
        asked = _asked(_annotation(caption, "unsorted", "unsorted"))
        assert asked == {}


def test_yes_and_no_are_true_and_balanced_for_every_kind():
    places = {
        "animal": ("animals & nature", "animal-bird"),
        "person": ("people & body", "person"),
        "flag": ("flags", "flag"),
        "food": ("food & drink", "food-fruit"),
        "clock": ("travel & places", "time"),
    }
    counts = {"animal": 300, "person": 1500, "flag": 500, "food": 600, "clock": 100}
    weights = balanced_kinds(counts)
    answers = Counter()
    for kind, count in counts.items():
        for index in range(count):
            name = f"images/{kind}{index}.webp"
            annotation = _annotation("zzz", *places[kind], name)
            assert kind_of(annotation) == kind
            asked = _asked(annotation, weights=weights)
            question, answer = next(
                (q, a) for (k, q), a in asked.items() if k == "yes_no"
            )
            called = next(
                k for k, words in KINDS.items() if question == f"is this {words}?"
            )
            assert (answer == "yes") == (called == kind)
            assert called == kind or not may_be(kind, called)
            answers[called, answer] += 1
    for kind, count in counts.items():
        share = answers[kind, "yes"] / (answers[kind, "yes"] + answers[kind, "no"])
        assert abs(share - 0.5) < 0.03 + 1 / count**0.5


def test_same_seed_same_questions(pictures):
    for picture in pictures:
        first = _asked(picture.annotation, picture.color, seed=3)
        assert first == _asked(picture.annotation, picture.color, seed=3)
        assert all(answer for answer in first.values())
