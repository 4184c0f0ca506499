"""Classes told apart by likelihood, with artists that know all or nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitoken_jax.evaluate import classes
from unitoken_jax.evaluate.classes import Classified, ClassTestConfig

NAMES = ("ant", "bee", "cat")


def items(labels):
    return [
        Classified(np.full((2, 2, 3), label, np.uint8), NAMES[label])
        for label in labels
    ]


class Artist:
    """Knows a share of the truth: 1 is all of it, 0 nothing, −1 the opposite."""

    def __init__(self, knowledge):
        self.knowledge = knowledge
        self.drawn = []

    def encode(self, images):
        return np.stack([np.full((2, 2), image[0, 0, 0], int) for image in images])

    def score(self, prompts, codes, progress):
        progress(len(prompts))
        right = [NAMES[grid[0, 0]] == p for p, grid in zip(prompts, codes, strict=True)]
        return -8 * np.log(2) + self.knowledge * np.array(right, float)

    def draw(self, prompts, seeds, progress):
        progress(len(prompts))
        self.drawn += zip(prompts, seeds, strict=True)
        return np.zeros((len(prompts), 2, 2, 3), np.uint8)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.sampled_from([1, -1]))
def test_the_rank_is_beside_the_most_frequent_class(labels, knowledge):
    config = ClassTestConfig(drawings=0)
    found = classes.evaluate(Artist(knowledge), items(labels), NAMES, config)
    rank = found.measures["class_rank"]
    assert rank.value == (1.0 if knowledge > 0 else 0.0)
    assert rank.count == len(labels)
    assert rank.baseline == max(map(labels.count, labels)) / len(labels)
    # Eight bits of four codes, and what is known of them.
    bits = 2 - knowledge / (4 * np.log(2))
    assert found.measures["bits_per_code"].value == pytest.approx(bits)
    assert found.samples["drawings"] == []


def test_drawings_go_through_the_classes_and_are_kept():
    done, kept = [], []
    config = ClassTestConfig(drawings=5, seed=10, examples=2)
    artist, shown = Artist(1), items([0, 1])
    found = classes.evaluate(
        artist, shown, NAMES, config, done.append, keep=kept.extend
    )
    assert artist.drawn == [
        *(("ant", 10), ("bee", 11), ("cat", 12), ("ant", 13), ("bee", 14))
    ]
    assert len(kept) == 5
    assert sum(done) == classes.amount(shown, NAMES, config) == 2 * 3 + 5
    first, last = found.samples["drawings"]
    assert (first["prompt"], first["seed"]) == ("ant", 10)
    assert (last["prompt"], last["seed"]) == ("bee", 14)


def source(categories, directory="d"):
    """A run whose held-out records are of these categories."""
    view = SimpleNamespace(whole=np.zeros((2, 2, 3), np.uint8))
    records = [({"category": name, "id": str(i)}, None) for i, name in categories]
    return SimpleNamespace(
        sampler=Artist(1),
        experiment=SimpleNamespace(data_dir=directory),
        config=SimpleNamespace(split="heldout"),
        images=lambda: iter(records),
        view=lambda record, image: None if record["id"] == "1" else view,
        drawings=[],
    )


def test_records_of_unknown_classes_are_no_part_of_it(monkeypatch):
    monkeypatch.setattr(classes, "class_names", lambda directory: NAMES)
    run = source(enumerate(["ant", "bee", "scene", "cat", "ant", "ant"]))
    config = ClassTestConfig(images=2, drawings=3, without=("cat",))
    found = classes.Classes(config, run).run()
    # One bee cannot be seen, scenes have no class, cats are left out.
    assert found.measures["class_rank"].count == 2
    assert len(run.drawings) == 3
    with pytest.raises(classes.DataError, match="no picture of a known class"):
        classes.Classes(config, source(enumerate(["scene"]))).run()
