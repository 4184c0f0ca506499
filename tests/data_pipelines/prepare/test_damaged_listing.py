"""Whatever stands in captions.jsonl, every line gives a record or a rejection."""

import contextlib
import json
import zipfile
from dataclasses import replace

import crafted
import hypothesis
import pytest
from damage import DAMAGES, damaged
from hypothesis import strategies as st

from data_pipelines.prepare.job import picture_record
from data_pipelines.prepare.nouns import KINDS
from data_pipelines.prepare.pictures import (
    Archive,
    EntryError,
    Picture,
    read_annotation,
    read_picture,
    read_pictures,
)
from data_pipelines.prepare.questions import balanced_kinds
from data_pipelines.storage import records
from unitoken_jax.files import json_lines

WRONG_KINDS = balanced_kinds(dict.fromkeys(KINDS, 3))
PICTURE = crafted.encoded(crafted.corners(), "PNG")
LINES = [
    {
        "image": f"{'abcd'[number] * (number + 2)}.png",
        "caption": caption,
        "concept": "thing",
        "category": category,
        "subcategory": subcategory,
        "keywords": ["a"],
        "source": "us",
        "license": "cc0",
    }
    for number, (caption, category, subcategory) in enumerate(
        [
            ("red heart", "smileys & emotion", "heart"),
            ("woman: dark skin tone, curly hair", "people & body", "person"),
            ("flag: denmark", "flags", "country-flag"),
            ("keycap: 3", "symbols", "keycap"),
        ]
    )
]
SHOWN = read_picture(LINES[0], PICTURE, 64, 10**6)
_ODD = ["", " ", "&nbsp;", "&#55357;", "&#0;", "\0", "\u2028", "\u200b", "\ud83d", ":"]
_ODD += [": ", ", ", "flag: ", "keycap: ", "man", "red", "e\u0301", "\u202e", "<s>"]
_TEXTS = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(_ODD), max_size=4).map("".join),
    st.tuples(st.sampled_from(LINES), st.sampled_from(_ODD)).map(
        lambda pair: pair[1] + pair[0]["caption"] + pair[1]
    ),
)
_ANYTHING = st.one_of(
    _TEXTS,
    st.none(),
    st.integers(),
    st.floats(),
    st.lists(_TEXTS, max_size=2),
)
_ENTRIES = st.tuples(
    st.sampled_from(LINES),
    st.dictionaries(st.sampled_from(list(LINES[0])), _ANYTHING, max_size=2),
).map(lambda pair: pair[0] | pair[1])


def _check_line(entry):
    """What a line says is refused in a sentence, or makes a record to the end."""
    data = json.dumps(entry).encode()
    for line in json_lines(data):
        if line.fault is not None:
            continue
        with contextlib.suppress(EntryError):
            annotation = read_annotation(line.value)
            picture = replace(SHOWN, annotation=annotation)
            record = picture_record(picture, "id", WRONG_KINDS, 0)
            again = records.decode(records.encode(record))
            assert again["captions"]
            assert all(text.strip() for text in again["captions"])


@hypothesis.settings(max_examples=100, deadline=None, database=None)
@hypothesis.given(_ENTRIES)
def test_a_record_or_a_sentence(entry):
    _check_line(entry)


@pytest.mark.slow
@hypothesis.settings(max_examples=20_000, deadline=None, database=None)
@hypothesis.given(_ENTRIES)
def test_a_record_or_a_sentence_often(entry):
    _check_line(entry)


def _check_listing(path, damages):
    whole = "\n".join(json.dumps(line) for line in LINES).encode()
    listing = damaged(whole, damages)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("captions.jsonl", listing)
        for line in LINES:
            file.writestr(line["image"], PICTURE)
    with Archive(path) as archive:
        read = list(read_pictures(archive, 64, 10**6))
    assert len(read) == sum(bool(line.strip()) for line in listing.split(b"\n"))
    untouched = set(whole.split(b"\n")) & set(listing.split(b"\n"))
    assert sum(isinstance(item, Picture) for item in read) >= len(untouched)


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(DAMAGES)
def test_a_damaged_listing_costs_its_damaged_lines(tmp_path, damages):
    _check_listing(tmp_path / "a.zip", damages)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=3000,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(DAMAGES)
def test_a_damaged_listing_costs_its_damaged_lines_often(tmp_path, damages):
    _check_listing(tmp_path / "a.zip", damages)
