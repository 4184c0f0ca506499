"""The record schema: exact round trips, and faults that name the record."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.storage import records


def test_round_trip_is_exact_and_ordered(examples):
    record = examples.record(3)
    data = records.encode(record)
    assert records.decode(data) == record
    shuffled = dict(reversed(list(record.items())))
    assert records.encode(shuffled) == data


@given(
    text=st.text(st.characters(exclude_categories=("Cs",))),
    codes=st.lists(st.integers(0, 65535), min_size=1, max_size=12),
)
def test_any_text_and_codes_survive(text, codes, examples):
    record = examples.record()
    record["captions"] = [text]
    record = records.with_codes(record, np.array([codes], np.int64))
    back = records.decode(records.encode(record))
    assert back["captions"] == [text]
    np.testing.assert_array_equal(records.codes_of(back), [codes])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 0),
        ("width", True),
        ("image", b""),
        ("image", "text"),
        ("captions", ["a", 1]),
        ("questions", [{"kind": "a", "question": "b"}]),
        ("concept", ""),
        ("grid", [1]),
    ],
)
def test_wrong_values_are_named(key, value, examples):
    record = examples.record() | {key: value}
    with pytest.raises(records.RecordError, match=f"'picture/00000': '{key}' must be"):
        records.encode(record)


def test_missing_and_unknown_keys_are_named(examples):
    record = dict(examples.record())
    del record["captions"]
    with pytest.raises(
        records.RecordError, match=r"here: record .* lacks .*'captions'"
    ):
        records.validate(record, "here")
    with pytest.raises(records.RecordError, match="unknown keys: colour"):
        records.validate(examples.record() | {"colour": 1})
    with pytest.raises(records.RecordError, match="must be a map"):
        records.validate([1])


def test_codes_must_fill_their_grid(examples):
    record = examples.record()
    with pytest.raises(records.RecordError, match="holds no codes"):
        records.codes_of(record)
    record["codes"] = b"1234"
    with pytest.raises(records.RecordError, match="together"):
        records.validate(record)
    record["grid"] = [2, 2]
    with pytest.raises(records.RecordError, match="4 bytes of codes do not fill"):
        records.validate(record)
    for bad in (np.zeros(3, np.int32), np.zeros((1, 1)), np.array([[70000]])):
        with pytest.raises(records.RecordError, match="codes"):
            records.with_codes(examples.record(), bad)


def test_several_codes_a_place_survive(examples):
    codes = np.arange(12).reshape(2, 3, 2)
    record = records.with_codes(examples.record(), codes)
    assert record["grid"] == [2, 3, 2]
    back = records.decode(records.encode(record))
    np.testing.assert_array_equal(records.codes_of(back), codes)


def test_a_record_of_text_alone_has_no_picture_at_all(examples):
    nothing = {"image": b"", "width": 0, "height": 0}
    text = examples.record() | nothing
    assert records.decode(records.encode(text)) == text
    for key, value in examples.record().items():
        if key in nothing:
            with pytest.raises(records.RecordError, match="must be"):
                records.validate(text | {key: value})


@pytest.mark.parametrize("cut", [0, 1, 50])
def test_damaged_bytes_are_a_sentence(cut, examples):
    data = records.encode(examples.record())[:cut]
    with pytest.raises(records.RecordError, match=r"shard 3, entry 5: .* not a record"):
        records.decode(data, "shard 3, entry 5")
    with pytest.raises(records.RecordError):
        records.decode(msgpack.packb({"id": b"\xff"}) or b"")
