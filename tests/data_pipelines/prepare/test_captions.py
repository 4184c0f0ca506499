"""Captions in natural words."""

import pytest

from data_pipelines.prepare.captions import (
    captions_of,
    clean,
    country_of,
    head,
    phrase,
    skin_tones,
)


def _annotation(caption, category="people & body", subcategory="person"):
    return {
        "caption": caption,
        "category": category,
        "subcategory": subcategory,
        "image": "images/1.webp",
        "keywords": [],
    }


@pytest.mark.parametrize(
    ("caption", "spoken", "name"),
    [
        (
            "woman surfing: dark skin tone",
            "woman surfing with dark skin",
            "woman surfing",
        ),
        (
            "man: light skin tone, curly hair",
            "man with light skin and curly hair",
            "man",
        ),
        ("keycap: 5", "keycap 5", "keycap 5"),
        (
            "kiss: woman, man, dark skin tone",
            "kiss of woman and man with dark skin",
            "kiss",
        ),
        (
            "man running: light skin tone, facing right",
            "man running with light skin facing right",
            "man running",
        ),
        ("thumbs up", "thumbs up", "thumbs up"),
    ],
)
def test_phrases(caption, spoken, name):
    assert phrase(_annotation(caption)) == spoken
    assert head(_annotation(caption)) == name


def test_flags():
    flag = _annotation("flag: denmark", "flags", "country-flag")
    assert (phrase(flag), head(flag)) == ("flag of denmark", "flag of denmark")
    place = ("signs_and_symbols", "signs_and_symbols/flags/africa")
    assert country_of(_annotation("burundi", *place)) == "burundi"
    assert country_of(_annotation("by someone burundi", *place)) is None
    assert country_of(_annotation("pirate flag", "flags", "flag")) is None


def test_skin_tones_only_of_variants():
    assert skin_tones("kiss: man, man, light skin tone, medium-dark skin tone") == [
        "light",
        "medium-dark",
    ]
    assert skin_tones("dark skin tone") == []


def test_plain_things_get_articles_and_colors():
    apple = _annotation("red apple", "food & drink", "food-fruit")
    assert captions_of(apple, "red")[:2] == ["red apple", "a red apple"]
    surfer = _annotation("woman surfing: dark skin tone")
    assert captions_of(surfer, None)[1] == "a woman surfing with dark skin"
    flag = _annotation("flag: denmark", "flags", "country-flag")
    assert captions_of(flag, None)[1] == "the flag of denmark"
    umbrella = _annotation("umbrella", "travel & places", "sky & weather")
    assert captions_of(umbrella, "orange")[1] == "an orange umbrella"
    assert captions_of(umbrella, None)[1] == "an umbrella"


def test_the_annotations_own_caption_is_first_and_none_repeats(pictures):
    for picture in pictures:
        captions = captions_of(picture.annotation, picture.color)
        assert captions[0] == picture.annotation["caption"]
        assert len(set(captions)) == len(captions) >= 2
        assert all(clean(caption) == caption for caption in captions)
        assert captions == captions_of(picture.annotation, picture.color)


def test_entities_are_resolved():
    assert clean("Fish &amp; Chips") == "fish & chips"
