"""When two answers say the same."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.evaluate.statistics.answers import RULES, exact, vqa, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A red Heart.", "red heart"),
        ("the  dog's", "dog s"),
        ("dog’s", "dog's"),
        ("Ｙｅｓ", "yes"),
        ("high-speed train", "High speed train"),
        ("(B)", "b."),
        ("A", "a."),
        ("1,000", "1000"),
        ("the 3", "3"),
        ("−5", "-5"),
        ("3–5", "3-5"),
        ("\u2764\ufe0f", "\u2764"),
        ("caf\u00e9", "cafe\u0301"),
        ("'5'", "5"),
        ("a dog and a cat", "dog and cat"),
        ("yes\u200b", "Yes!"),
    ],
)
def test_answers_that_say_the_same(one, other):
    assert words(one) == words(other)


@pytest.mark.parametrize(
    "different",
    [
        ("A", "", "?", "the", "an", ".", "!", "-", "B"),
        ("-5", "5", "+5", ".5", "5%", "5'", '5"', "$5", "€5", "5°"),
        ("c", "c++", "c#", "C*"),
        ("❤", "💙", "💛", "♥"),
        ("3-5", "35", "3 5", "3.5", "3/5", "3:5", "3,5", "-35"),
        ("AB+", "AB-", "AB"),
        ("option A", "option B", "option"),
        ("vitamin A tablets", "vitamin tablets", "vitamin B tablets"),
        ("A and B", "B", "and B"),
        ("x²", "x2", "x"),
        ("½", "1/2", "12"),
        ("10:30", "1030"),
        (":)", ":("),
        ("हिन्दी", "हन्द"),
        ("keycap #", "keycap *", "keycap"),
        ("👍🏻", "👍🏿"),
    ],
)
def test_answers_that_say_something_else(different):
    assert len({words(answer) for answer in different}) == len(different)


@given(st.text(max_size=12))
def test_words_never_empty_an_answer_and_look_the_same_in_any_form(text):
    visible = words(f"{text}x")
    assert visible
    assert words(unicodedata.normalize("NFD", text)) == words(text)
    if any(letter.isalnum() for letter in text):
        assert words(text)


def test_exact_looks_past_case_and_white_space_only():
    assert exact(" A  Red\tHEART ") == "a red heart"
    assert exact("red heart.") != exact("red heart")


@pytest.mark.parametrize(
    ("answer", "reduced"),
    [
        ("A red, red heart.", "red red heart"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont", "don't"),
        ("1,000", "1000"),
        ("red/blue", "red blue"),
        ("2.5", "2.5"),
        # As published, whatever one thinks of it.
        ("A", ""),
        ("-5", "5"),
    ],
)
def test_rules_of_vqa_are_those_published(answer, reduced):
    assert vqa(answer) == reduced


def test_every_rule_has_its_name():
    assert dict(RULES) == {"words": words, "exact": exact, "vqa": vqa}
