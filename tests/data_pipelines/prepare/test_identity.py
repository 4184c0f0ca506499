"""Ids: short where that is enough, never the same for two files."""

import hypothesis
from hypothesis import strategies as st

from data_pipelines.prepare.identity import identities, plain_name


def test_an_id_is_the_name_without_its_suffix():
    assert identities(["a/b.webp", "./a//c.png"]) == ["a/b", "a/c"]


def test_what_differs_in_the_suffix_keeps_it():
    assert identities(["a/b.webp", "c.png", "a/b.png"]) == ["a/b.webp", "c", "a/b.png"]


def test_an_id_is_never_the_name_of_another_picture():
    names = ["a.png", "a.jpg", "a.png.webp", "b", "b.png"]
    assert identities(names) == ["a.png", "a.jpg", "a.png.webp", "b", "b.png"]


def test_names_that_differ_in_case_or_spelling_only():
    names = ["A.png", "a.png", "cafe\u0301.png", "caf\u00e9.png", "x.png"]
    ids = identities(names)
    assert ids[4] == "x"
    assert all(
        i.startswith(f"{plain_name(n)}#") for i, n in zip(ids[:4], names, strict=False)
    )
    assert ids == identities(names)


_PARTS = st.sampled_from(
    ["a", "A", "b", ".png", ".PNG", ".jpg", "/", "./", "//", "#", "e\u0301", "\u00e9"]
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=5).map("".join)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(_NAMES, unique=True, max_size=12))
def test_ids_are_unique_even_without_case(names):
    names = [name for name in names if name.strip("./")]
    ids = identities(names)
    assert len({plain_name(i).casefold() for i in ids}) == len(names)
