"""Scenes: the pixels, captions and answers agree with the layout, counted anew."""

import random
import re

import numpy as np
import pytest

from data_pipelines.images.decoding import decode_image
from data_pipelines.prepare import scenes
from data_pipelines.prepare.colors import PAINTS, single_color
from data_pipelines.prepare.job import PrepareConfig, make_things
from data_pipelines.prepare.nouns import KINDS, may_be
from data_pipelines.storage import records

SIZE = 64


@pytest.fixture(scope="module")
def things(pictures):
    return make_things(pictures, PrepareConfig())


def _scenes(kind, things, novelty=scenes.SEEN, count=40):
    made = [
        scenes.compose(kind, i, things, novelty=novelty, seed=5, size=SIZE)
        for i in range(count)
    ]
    assert all(scene is not None for scene in made)
    return made


def _ink(scene):
    """Which pixels of the painted scene are not background, bool [H, W]."""
    pixels = np.asarray(scenes.paint(scene, SIZE)).astype(int)
    return np.abs(pixels - scene.background_paint).max(-1) > 2


def _box(item):
    rows = slice(item.top, item.top + item.side)
    return rows, slice(item.left, item.left + item.side)


def test_things_are_what_the_pictures_show(things):
    names = {thing.noun.singular for thing in things}
    assert {"heart", "circle", "star", "cat", "apple", "bus"} <= names
    paintable = {thing.noun.singular for thing in things if thing.paintable}
    assert {"heart", "circle"} <= paintable
    assert not {"cat", "apple"} & paintable


@pytest.mark.parametrize("kind", list(scenes.KIND_SHARES))
def test_every_item_is_seen_and_nothing_else(things, kind):
    for scene in _scenes(kind, things):
        ink = _ink(scene)
        left = ink.copy()
        for item in scene.items:
            rows, columns = _box(item)
            assert 0 <= item.left <= SIZE - item.side
            assert 0 <= item.top <= SIZE - item.side
            assert ink[rows, columns].mean() > 0.05
            left[rows, columns] = False
        assert not left.any()
        taken = sum(item.side**2 for item in scene.items)
        union = np.zeros_like(ink)
        for item in scene.items:
            union[_box(item)] = True
        assert union.sum() == taken, "boxes overlap"


def test_counts_are_true(things):
    numbers = {}
    for scene in _scenes(scenes.COUNT, things, count=60):
        number = len({(item.left, item.top) for item in scene.items})
        numbers[number] = numbers.get(number, 0) + 1
        word = scenes.NUMBERS[number]
        caption = scenes.captions_of(scene)[0]
        noun = scene.items[0].thing.noun
        expected = noun.with_article if number == 1 else f"{word} {noun.plural}"
        assert caption.startswith(expected)
        questions = scenes.questions_of(scene, things, random.Random(0))
        counted = [q["answer"] for q in questions if q["kind"] == "count"]
        assert counted == [word]
    assert set(numbers) == {1, 2, 3, 4}


def test_colors_are_true(things):
    seen = set()
    for scene in _scenes(scenes.COLOR, things, count=60):
        item = scene.items[0]
        pixels = np.asarray(scenes.paint(scene, SIZE))
        opaque = np.full((SIZE, SIZE, 1), 255, np.uint8)
        ink = np.concatenate([pixels, opaque], -1)
        ink[..., 3] *= _ink(scene)
        assert single_color(ink, 0.5) == item.color != scene.background
        corner = np.full((1, 1, 4), (*scene.background_paint, 255), np.uint8)
        assert single_color(corner, 1.0) == scene.background
        asked = scenes.questions_of(scene, things, random.Random(1))
        answers = {q["question"]: q["answer"] for q in asked}
        assert answers.pop("what color is the background?") == scene.background
        assert list(answers.values()) == [item.color]
        assert item.color in scenes.captions_of(scene)[0]
        seen.add(item.color)
    assert len(seen) > 6
    assert seen <= set(PAINTS)


def _holds(relation, first, second):
    """Whether the first box stands so to the second, by their edges."""
    return {
        "left of": first.left + first.side <= second.left,
        "right of": second.left + second.side <= first.left,
        "above": first.top + first.side <= second.top,
        "below": second.top + second.side <= first.top,
    }[relation]


def _named(scene, word):
    """The item that is called `word`, by its noun or its kind."""
    found = [
        item
        for item in scene.items
        if word in (item.thing.noun.singular, item.thing.noun.kind)
    ]
    assert len(found) == 1
    return found[0]


def _check_position_answer(scene, question, answer):
    middle = SIZE / 2
    if match := re.fullmatch(
        r"is the (.+) (left or right of|above or below) the (.+)\?", question
    ):
        relation = f"{answer} of" if answer in ("left", "right") else answer
        assert _holds(relation, _named(scene, match[1]), _named(scene, match[3]))
    elif match := re.fullmatch(r"where is the (.+)\?", question):
        item = _named(scene, match[1])
        x, y = item.left + item.side / 2, item.top + item.side / 2
        expected = {
            "left": x < middle,
            "right": x > middle,
            "top": y < middle,
            "bottom": y > middle,
        }
        assert expected[answer]
    else:
        match = re.fullmatch(
            r"what is (left of|right of|above|below) the (.+)\?", question
        )
        assert match is not None
        assert _holds(match[1], _named(scene, answer), _named(scene, match[2]))


@pytest.mark.parametrize("novelty", [scenes.SEEN, scenes.NEW_CONCEPTS])
def test_positions_are_true(things, novelty):
    asked = 0
    for scene in _scenes(scenes.POSITION, things, novelty, count=60):
        for caption in scenes.captions_of(scene):
            match = re.search(
                r"an? ([\w ]+?) (left of|right of|above|below) an? ([\w ]+?)"
                r"( on an? |$)",
                caption.removeprefix("a picture of "),
            )
            assert match is not None
            first = _named(scene, match[1])
            assert _holds(match[2], first, _named(scene, match[3]))
        for question in scenes.questions_of(scene, things, random.Random(2)):
            if question["kind"] == "position":
                asked += 1
                _check_position_answer(scene, question["question"], question["answer"])
                if novelty == scenes.NEW_CONCEPTS:
                    words = re.findall(r"the (\w+)", question["question"])
                    assert all(word in KINDS for word in words)
    assert asked >= 120


def test_two_objects_are_named_in_reading_order_and_absence_is_true(things):
    answers = []
    for index, scene in enumerate(_scenes(scenes.TWO_OBJECTS, things, count=60)):
        questions = scenes.questions_of(scene, things, random.Random(index))
        named, present = questions[0], questions[1]
        order = sorted(scene.items, key=lambda item: (item.top // 32, item.left // 32))
        if scene.side in ("left", "right"):
            order = sorted(scene.items, key=lambda item: item.left)
        by_kind = "kinds" in named["question"]
        words = [
            item.thing.noun.kind if by_kind else item.thing.noun.singular
            for item in order
        ]
        assert named["answer"] == " and ".join(words)
        match = re.fullmatch(r"is there (?:an? )?(.+)\?", present["question"])
        assert match is not None
        word = match[1].removeprefix("musical ")
        shown = {item.thing.noun.singular for item in scene.items}
        kinds = {item.thing.noun.kind for item in scene.items}
        if present["answer"] == "yes":
            assert word in shown | kinds
        else:
            assert word not in shown
            assert not any(may_be(kind or "", word) for kind in kinds)
        answers.append(present["answer"])
    assert 0.3 < answers.count("yes") / len(answers) < 0.7


def test_compositions_are_held_out(things):
    for kind in scenes.KIND_SHARES:
        seen = {s.composition for s in _scenes(kind, things, scenes.SEEN)}
        new = {s.composition for s in _scenes(kind, things, scenes.NEW_COMPOSITION, 10)}
        assert not seen & new


def test_what_plain_pictures_show_is_not_held_out(things):
    names = {
        s.composition for s in _scenes(scenes.COLOR, things, scenes.NEW_COMPOSITION)
    }
    for index in range(40):
        scene = scenes.compose(
            scenes.COLOR,
            index,
            things,
            novelty=scenes.NEW_COMPOSITION,
            seed=5,
            size=SIZE,
            shown=names,
        )
        assert scene is None or scene.composition not in names


def test_too_few_things_give_no_scene(things):
    one = [thing for thing in things if not thing.paintable][:1]
    for kind in (scenes.COLOR, scenes.POSITION, scenes.TWO_OBJECTS):
        made = scenes.compose(kind, 0, one, novelty=scenes.SEEN, seed=0, size=SIZE)
        assert made is None
    made = list(scenes.scene_records("x", [(scenes.SEEN, [])], 10, seed=0, size=SIZE))
    assert made == []


def test_records_are_valid_and_reproducible(things):
    arguments = ("train", [(scenes.SEEN, things)], 20)
    made = list(scenes.scene_records(*arguments, seed=1, size=32))
    assert len(made) == 20
    assert made == list(scenes.scene_records(*arguments, seed=1, size=32))
    assert made != list(scenes.scene_records(*arguments, seed=2, size=32))
    for record in made:
        records.validate(record)
        assert decode_image(record).size == (32, 32)
        assert record["keywords"][0] == scenes.SEEN
        assert record["license"] == "Apache-2.0"
