"""Composed scenes with exact truth: how many, which colour, where, which two things.

A scene is laid out first (`compose`), as plain data that holds its whole truth; the
pixels (`paint`), captions and questions are functions of that. Held-out scenes show
either things of held-out concepts or combinations that training never shows.
"""

import io
import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.images import transforms
from data_pipelines.prepare.colors import PAINTS, repaint
from data_pipelines.prepare.nouns import KINDS, Noun, article, may_be
from data_pipelines.prepare.split import chance
from data_pipelines.storage import records
from data_pipelines.storage.records import Question, Record

COUNT, COLOR, POSITION, TWO_OBJECTS = "count", "color", "position", "two_objects"
# Share of the scenes of each kind.
KIND_SHARES = {COUNT: 0.3, COLOR: 0.2, POSITION: 0.3, TWO_OBJECTS: 0.2}

# What a scene is new in; it stands among the keywords of its record.
SEEN = "seen"
NEW_COMPOSITION = "held-out composition"
NEW_CONCEPTS = "held-out concepts"

NUMBERS = ("zero", "one", "two", "three", "four")
_HELD_COMPOSITIONS = 0.12
_WHITE_BACKGROUNDS = 0.35
# Share of a thing's area that may nearly have the background's colour, and how nearly
# (root mean square of the three channels).
_HIDDEN_SHARE = 0.3
_HIDDEN_DISTANCE = 55.0
# Plain shapes are painted more often than other things: they show a colour best.
_SHAPES = ("heart", "shape")
_SHAPE_WEIGHT = 4
# Share of the questions in training that call things by their kind.
_GENERIC_QUESTIONS = 0.4
_ATTEMPTS = 200


@dataclass(frozen=True)
class Thing:
    """A picture that scenes are made of.

    Attributes:
        noun: What it is called.
        picture: RGBA, without a clear margin.
        paintable: Whether it has one colour and may be painted in another.
        source, license: Of its picture.
    """

    noun: Noun
    picture: Image.Image
    paintable: bool
    source: str
    license: str


@dataclass(frozen=True)
class Item:
    """One thing in a scene: its square box in pixels, its colour if it is painted."""

    thing: Thing
    left: int
    top: int
    side: int
    color: str | None = None
    paint: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Scene:
    """The layout and the whole truth of a scene.

    Attributes:
        kind: One of KIND_SHARES.
        items: In reading order of the caption: the first stands at `side` of the
            second.
        side: 'left', 'right', 'above' or 'below' where there are two things.
        background: Name of the background's colour.
        background_paint: The background's colour.
        composition: Key of what is combined; scenes of one key are in one split.
        novelty: SEEN, NEW_COMPOSITION or NEW_CONCEPTS.
    """

    kind: str
    items: tuple[Item, ...]
    side: str | None
    background: str
    background_paint: tuple[int, int, int]
    composition: str
    novelty: str


@dataclass(frozen=True)
class _Side:
    """How it is said that one thing stands at a side of another."""

    relation: str
    choice: str
    answer: str
    place: str
    opposite: str


_SIDES = {
    "left": _Side("left of", "left or right of", "left", "left", "right"),
    "right": _Side("right of", "left or right of", "right", "right", "left"),
    "above": _Side("above", "above or below", "above", "top", "below"),
    "below": _Side("below", "above or below", "below", "bottom", "above"),
}


@dataclass(frozen=True)
class _Draft:
    """What is combined, before it has a place."""

    things: tuple[Thing, ...]
    color: str | None
    composition: str


def is_held_out(composition: str, seed: int) -> bool:
    """Whether a combination of seen things is kept from training."""
    return chance(seed, "composition", composition) < _HELD_COMPOSITIONS


def compose(
    kind: str,
    index: int,
    things: Sequence[Thing],
    *,
    novelty: str,
    seed: int,
    size: int,
    shown: Set[str] = frozenset(),
) -> Scene | None:
    """Lays out scene number `index` of a kind and a novelty.

    Args:
        kind: One of KIND_SHARES.
        index: Number of the scene, the same for the same scene.
        things: What may be shown, all of one split.
        novelty: SEEN or NEW_COMPOSITION of seen things, or NEW_CONCEPTS.
        seed: Of everything that is drawn.
        size: Side of the picture in pixels.
        shown: Combinations such as 'red heart' that plain pictures show in training
            and that are therefore not held out.

    Returns:
        The scene, or None where `things` do not have such a combination.
    """
    rng = random.Random(f"{seed}/scene/{novelty}/{kind}/{index}")
    for _ in range(_ATTEMPTS):
        draft = _draft(kind, things, rng, novelty)
        if draft is None:
            return None
        held = draft.composition not in shown and is_held_out(draft.composition, seed)
        if novelty == NEW_CONCEPTS or held == (novelty == NEW_COMPOSITION):
            scene = _place(kind, draft, rng, novelty, size)
            if scene is not None:
                return scene
    return None


def _draft(
    kind: str, things: Sequence[Thing], rng: random.Random, novelty: str
) -> _Draft | None:
    """Draws what is combined, None if `things` are too few for it."""
    if kind == COLOR:
        things = [thing for thing in things if thing.paintable]
    if not things:
        return None
    if kind == COUNT:
        thing, number = rng.choice(things), rng.randint(1, 4)
        name = f"{NUMBERS[number]} {thing.noun.singular}"
        return _Draft((thing,) * number, None, name)
    if kind == COLOR:
        weights = [_SHAPE_WEIGHT if t.noun.kind in _SHAPES else 1 for t in things]
        thing = rng.choices(things, weights)[0]
        color = rng.choice(list(PAINTS))
        return _Draft((thing,), color, f"{color} {thing.noun.singular}")
    if novelty == NEW_CONCEPTS:
        # Unknown names cannot be asked for, so the two must differ in kind.
        kinds = sorted({t.noun.kind for t in things if t.noun.kind is not None})
        if len(kinds) < 2:
            return None
        pair = [
            rng.choice([thing for thing in things if thing.noun.kind == kind])
            for kind in rng.sample(kinds, 2)
        ]
    elif len(things) < 2:
        return None
    else:
        pair = rng.sample(things, 2)
    names = sorted(thing.noun.singular for thing in pair)
    return _Draft(tuple(pair), None, " and ".join(names))


def _place(
    kind: str, draft: _Draft, rng: random.Random, novelty: str, size: int
) -> Scene | None:
    """Gives every thing a box and the scene a background on which all are seen."""
    side = None
    if len(draft.things) == 1:
        boxes = [_box(rng, (0.0, 0.0, 1.0, 1.0), (0.5, 0.75), size)]
    elif kind == COUNT:
        cells = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)]
        chosen = rng.sample(cells, len(draft.things))
        boxes = [_box(rng, cell, (0.38, 0.46), size) for cell in chosen]
    else:
        side = rng.choice(list(_SIDES))
        boxes = _side_boxes(rng, side, size)
    paint = _jitter(PAINTS[draft.color], rng) if draft.color else None
    items = tuple(
        Item(thing, *box, draft.color, paint)
        for thing, box in zip(draft.things, boxes, strict=True)
    )
    background = _background(items, rng)
    if background is None:
        return None
    name, shade = background
    return Scene(kind, items, side, name, shade, draft.composition, novelty)


def _box(
    rng: random.Random,
    cell: tuple[float, float, float, float],
    sides: tuple[float, float],
    size: int,
) -> tuple[int, int, int]:
    """(left, top, side) of a square inside `cell`, all but the result in parts of 1."""
    left, top, right, bottom = (round(edge * size) for edge in cell)
    side = min(round(rng.uniform(*sides) * size), right - left, bottom - top)
    return rng.randint(left, right - side), rng.randint(top, bottom - side), side


def _side_boxes(rng: random.Random, side: str, size: int) -> list[tuple[int, int, int]]:
    """Boxes of two things of which the first stands at `side` of the second."""
    # Each stays in its half, and near the middle of the other axis.
    near, far = (0.0, 0.5), (0.5, 1.0)
    first, second = (near, far) if side in ("left", "above") else (far, near)
    boxes = []
    for start, end in (first, second):
        flat = (start, 0.2, end, 0.8)
        upright = (0.2, start, 0.8, end)
        cell = flat if side in ("left", "right") else upright
        boxes.append(_box(rng, cell, (0.4, 0.48), size))
    return boxes


def _jitter(paint: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, c + rng.randint(-10, 10))) for c in paint)
    return red, green, blue


def _background(
    items: Sequence[Item], rng: random.Random
) -> tuple[str, tuple[int, int, int]] | None:
    """Name and colour of a background on which every item is seen."""
    colored = [name for name in PAINTS if name != "white"]
    rng.shuffle(colored)
    white_first = rng.random() < _WHITE_BACKGROUNDS
    order = ["white", *colored] if white_first else [*colored, "white"]
    # items of one scene are alike or two: a quarter of the pixels tells enough
    looks = {item.thing.noun: _pixels(item)[::2, ::2] for item in items}
    for name in order:
        if any(item.color == name for item in items):
            continue
        shade = transforms.WHITE if name == "white" else _jitter(PAINTS[name], rng)
        if all(_is_seen(pixels, shade) for pixels in looks.values()):
            return name, shade
    return None


def _is_seen(pixels: np.ndarray, shade: tuple[int, int, int]) -> bool:
    apart = np.sqrt(((pixels[..., :3] - np.array(shade, np.float64)) ** 2).mean(-1))
    alpha = pixels[..., 3].astype(np.float64)
    hidden = (alpha * (apart < _HIDDEN_DISTANCE)).sum()
    return bool(hidden <= _HIDDEN_SHARE * alpha.sum())


def _pixels(item: Item) -> np.ndarray:
    """The item's picture in its colour, uint8 [h, w, 4]."""
    pixels = np.asarray(item.thing.picture)
    return pixels if item.paint is None else repaint(pixels, item.paint)


def paint(scene: Scene, size: int) -> Image.Image:
    """The scene as an RGB picture of `size` × `size` pixels."""
    canvas = Image.new("RGBA", (size, size), (*scene.background_paint, 255))
    for item in scene.items:
        fitted = transforms.fit(Image.fromarray(_pixels(item)), item.side)
        corner = (
            item.left + (item.side - fitted.width) // 2,
            item.top + (item.side - fitted.height) // 2,
        )
        canvas.alpha_composite(fitted, corner)
    return canvas.convert("RGB")


def captions_of(scene: Scene) -> list[str]:
    """Captions that are true of the scene and say all that is tested."""
    nouns = [item.thing.noun for item in scene.items]
    first = nouns[0]
    if scene.kind == COUNT and len(nouns) > 1:
        phrases = [f"{NUMBERS[len(nouns)]} {first.plural}"]
    elif scene.kind == COUNT:
        phrases = [first.with_article]
    elif scene.kind == COLOR:
        colored = f"{scene.items[0].color} {first.singular}"
        phrases = [f"{article(colored)} {colored}"]
    elif scene.kind == POSITION:
        side = _SIDES[scene.side or ""]
        back = _SIDES[side.opposite]
        one, other = (noun.with_article for noun in nouns)
        phrases = [f"{one} {side.relation} {other}", f"{other} {back.relation} {one}"]
    else:
        one, other = (noun.with_article for noun in nouns)
        phrases = [f"{one} and {other}", f"{other} and {one}"]
    if scene.background != "white":
        ground = f"{article(scene.background)} {scene.background} background"
        phrases = [f"{phrase} on {ground}" for phrase in phrases]
    return [*phrases, f"a picture of {phrases[0]}"]


def questions_of(
    scene: Scene, things: Sequence[Thing], rng: random.Random
) -> list[Question]:
    """Questions whose answers follow from the layout.

    Where the concepts are held out, things are called by their kind, as they sometimes
    are in training too, so that knowing the name is not needed.
    """
    generic = scene.novelty == NEW_CONCEPTS or rng.random() < _GENERIC_QUESTIONS
    if scene.kind == COUNT:
        questions = _count_questions(scene, generic)
    elif scene.kind == COLOR:
        questions = _color_questions(scene, generic)
    elif scene.kind == POSITION:
        questions = _position_questions(scene, generic, rng)
    else:
        questions = _pair_questions(scene, generic, things, rng)
    if scene.kind == COLOR or rng.random() < 0.25:
        asked = "what color is the background?"
        questions.append(_question(COLOR, asked, scene.background))
    return questions


def _count_questions(scene: Scene, generic: bool) -> list[Question]:
    called = "things" if generic else scene.items[0].thing.noun.plural
    answer = NUMBERS[len(scene.items)]
    return [_question(COUNT, f"how many {called} are there?", answer)]


def _color_questions(scene: Scene, generic: bool) -> list[Question]:
    item = scene.items[0]
    called = "thing" if generic else item.thing.noun.singular
    return [_question(COLOR, f"what color is the {called}?", item.color or "")]


def _position_questions(
    scene: Scene, generic: bool, rng: random.Random
) -> list[Question]:
    (one, other), _ = _called(scene, generic)
    side = _SIDES[scene.side or ""]
    back = _SIDES[side.opposite]
    which = f"is the {one} {side.choice} the {other}?"
    where = rng.choice([(one, side.place), (other, back.place)])
    questions = [
        _question(POSITION, which, side.answer),
        _question(POSITION, f"where is the {where[0]}?", where[1]),
    ]
    if scene.novelty != NEW_CONCEPTS:
        asked, answer = rng.choice(
            [
                (f"what is {side.relation} the {other}?", one),
                (f"what is {back.relation} the {one}?", other),
            ]
        )
        questions.append(_question(POSITION, asked, answer))
    return questions


def _pair_questions(
    scene: Scene, generic: bool, things: Sequence[Thing], rng: random.Random
) -> list[Question]:
    called, by_kind = _called(scene, generic)
    reading = called if scene.side in ("left", "above") else called[::-1]
    asked = "which two kinds of things" if by_kind else "which two things"
    questions = [_question(TWO_OBJECTS, f"{asked} are there?", " and ".join(reading))]
    present = [item.thing.noun for item in scene.items]
    # Of a kind that neither has: a duck might be called a bird.
    absent = [
        thing.noun
        for thing in things
        if thing.noun.kind is not None
        and not any(may_be(noun.kind or "", thing.noun.kind) for noun in present)
    ]
    answer = rng.choice(["yes", "no"]) if absent else "yes"
    noun = rng.choice(present if answer == "yes" else absent)
    named = KINDS[noun.kind] if by_kind and noun.kind else noun.with_article
    questions.append(_question("yes_no", f"is there {named}?", answer))
    return questions


def _called(scene: Scene, generic: bool) -> tuple[list[str], bool]:
    """What the two things are called, and whether by their kinds."""
    nouns = [item.thing.noun for item in scene.items]
    kinds = [noun.kind for noun in nouns if noun.kind is not None]
    if generic and len(set(kinds)) == 2:
        return kinds, True
    return [noun.singular for noun in nouns], False


def _question(kind: str, question: str, answer: str) -> Question:
    return {"kind": kind, "question": question, "answer": answer}


def record_of(
    scene: Scene, identity: str, things: Sequence[Thing], *, seed: int, size: int
) -> Record:
    """The record of a scene.

    Args:
        scene: From `compose`.
        identity: The record's id.
        things: Those the scene was composed of, for questions about what is absent.
        seed: Of the choice of questions.
        size: Side of the picture in pixels.
    """
    rng = random.Random(f"{seed}/questions/{identity}")
    file = io.BytesIO()
    paint(scene, size).save(file, "PNG")
    shown = [item.thing for item in scene.items]
    return records.make(
        identity,
        source=f"composed of {', '.join(sorted({t.source for t in shown}))}",
        license=", ".join(sorted({thing.license for thing in shown})),
        images=[records.picture(file.getvalue(), size, size)],
        captions=captions_of(scene),
        questions=questions_of(scene, things, rng),
        group=f"scene: {scene.composition}",
        category="scene",
        subcategory=scene.kind,
        keywords=[scene.novelty, *(thing.noun.singular for thing in shown)],
    )


def scene_records(
    split: str,
    novelties: Sequence[tuple[str, Sequence[Thing]]],
    count: int,
    *,
    seed: int,
    size: int,
    shown: Set[str] = frozenset(),
) -> Iterator[Record]:
    """Up to `count` scenes of a split, every kind at its share.

    Args:
        split: The split, part of the ids.
        novelties: Novelty and the things it is composed of, taken in turn.
        count: Number of scenes; fewer come where the things are too few for a kind.
        seed: Of everything that is drawn.
        size: Side of the pictures in pixels.
        shown: Combinations that plain pictures show in training.
    """
    for kind, share in KIND_SHARES.items():
        for index in range(round(count * share)):
            novelty, things = novelties[index % len(novelties)]
            scene = compose(
                kind,
                index,
                things,
                novelty=novelty,
                seed=seed,
                size=size,
                shown=shown,
            )
            if scene is not None:
                identity = f"scene/{split}/{kind}/{index:05d}"
                yield record_of(scene, identity, things, seed=seed, size=size)
