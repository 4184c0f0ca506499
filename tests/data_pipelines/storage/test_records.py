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
    assert records.make("a")["group"] == "a"


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


def story() -> records.Record:
    """Two pictures in a conversation that begins with instructions and ends drawing."""
    shown = [records.picture(b"one", 3, 4), records.picture(b"second", 5, 6)]
    said = [
        records.message("system", "be kind"),
        records.message("user", "look: ", records.image(0), " and?"),
        records.message("assistant", "a heart"),
        records.message("user", "draw it again"),
        records.message("assistant", records.image(1)),
    ]
    return records.make("story", images=shown, messages=said, extra={"b": "1", "a": ""})


def test_a_conversation_of_several_pictures_survives():
    record = story()
    data = records.encode(record)
    assert records.decode(data) == record
    other = record | {"extra": dict(reversed(record["extra"].items()))}
    part = record["messages"][1]["content"][1]
    record["messages"][1]["content"][1] = dict(reversed(part.items()))
    assert records.encode(other) == records.encode(record) == data


def test_pictures_stand_in_another_file_one_after_another():
    record = records.with_codes(story(), np.ones((2, 2), int), image=1)
    text, files = records.separate(records.encode(record))
    assert files == b"onesecond"
    outline, lengths = records.decode_outline(text)
    assert (outline, lengths) == (records.outline(record), [3, 6])
    assert records.with_images(outline, files, lengths) == record
    with pytest.raises(records.RecordError, match=r"of 9 bytes, but .* holds 8"):
        records.with_images(outline, files[:-1], lengths)
    for bad in (records.encode(record), b"\x80", b"\xc0"):
        with pytest.raises(records.RecordError, match="no record whose pictures stand"):
            records.decode_outline(bad)


@pytest.mark.parametrize("change", [{"bytes": 0}, {"width": 0, "height": 0}])
def test_lengths_and_sizes_go_together(change):
    record = msgpack.unpackb(records.separate(records.encode(story()))[0])
    record["images"][1] |= change
    with pytest.raises(records.RecordError, match="'story'"):
        records.decode_outline(msgpack.packb(record) or b"")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("captions", ["a", 1]),
        ("questions", [{"kind": "a", "question": "b"}]),
        ("group", ""),
        ("images", b"picture"),
        ("messages", "hello"),
        ("extra", {"language": 1}),
        ("extra", {"": "a"}),
    ],
)
def test_wrong_values_are_named(key, value, examples):
    record = examples.record() | {key: value}
    with pytest.raises(records.RecordError, match=f"'picture/00000': '{key}' must be"):
        records.encode(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "must have a positive integer as 'width'"),
        ({"height": True}, "must have a positive integer as 'height'"),
        ({"bytes": b""}, "must have the bytes of a picture"),
        ({"bytes": "text"}, "must have the bytes of a picture"),
        ({"codes": None}, "must have a list of 'codes'"),
        ({"codes": [b"12"]}, "are no map of data, grid, crop"),
        ({"alt": "a heart"}, "must be a map of bytes, width, height, codes"),
    ],
)
def test_wrong_pictures_are_named_by_their_number(change, message, examples):
    good = examples.record()["images"][0]
    record = examples.record() | {"images": [good, good | change]}
    with pytest.raises(records.RecordError, match=f": image 1 .*{message}"):
        records.validate(record)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"role": "human", "content": []}, "message 1 has the role str 'human', not"),
        ({"role": "user"}, "message 1 must be a map of role, content"),
        ({"role": "user", "content": "hi"}, "message 1 must have a list of parts"),
        (
            records.message("user", records.image(2)),
            "message 1 shows image 2, but .* 2",
        ),
        (records.message("user", records.image(-1)), "message 1 has a part that is"),
        (
            records.message("user", {"type": "text"}),
            "message 1 has a part that is n",
        ),
        (
            records.message("user", {"type": "image", "image": True}),
            "message 1 has a part that is neither",
        ),
        (records.message("assistant"), "message 1 is the assistant's and says nothing"),
        (records.message("assistant", "", " \n"), "message 1 .* says nothing"),
    ],
)
def test_wrong_messages_are_named_by_their_number(said, message):
    record = story()
    record["messages"][1] = said
    with pytest.raises(records.RecordError, match=f"'story': {message}"):
        records.validate(record)


def test_a_conversation_without_an_answer_is_refused():
    record = story() | {"messages": [records.message("user", "hello?")]}
    with pytest.raises(records.RecordError, match="no answer of the assistant"):
        records.validate(record)
    first = story() | {"messages": [records.message("assistant", "hello!")]}
    assert records.validate(first) == first


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
    assert not records.has_codes(record)
    with pytest.raises(records.RecordError, match="holds no codes; pre-tokenise"):
        records.codes_of(record)
    entry = {"data": b"1234", "grid": [1], "crop": "center"}
    record["images"][0]["codes"] = [entry]
    with pytest.raises(records.RecordError, match=r"must have a 'grid' of \[rows"):
        records.validate(record)
    entry["grid"] = [2, 2]
    with pytest.raises(records.RecordError, match="are 4 bytes and do not fill"):
        records.validate(record)
    entry |= {"grid": [1, 2], "crop": ""}
    with pytest.raises(records.RecordError, match="a name of 'crop'"):
        records.validate(record)
    entry["crop"] = "center"
    assert records.validate(record)
    record["images"][0]["codes"] = [entry, entry]
    with pytest.raises(records.RecordError, match="the crop 'center' twice"):
        records.validate(record)
    for bad in (np.zeros(3, np.int32), np.zeros((1, 1)), np.array([[70000]])):
        with pytest.raises(records.RecordError, match="codes"):
            records.with_codes(examples.record(), bad)


def test_several_codes_a_place_survive(examples):
    codes = np.arange(12).reshape(2, 3, 2)
    record = records.with_codes(examples.record(), codes)
    assert records.grid_of(record) == [2, 3, 2]
    back = records.decode(records.encode(record))
    np.testing.assert_array_equal(records.codes_of(back), codes)


def test_each_image_has_codes_by_crop():
    record = story()
    for number in range(4):
        crop = "center" if number == 2 else f"ten_crops/{number}"
        codes = np.full((1, 2), number)
        record = records.with_codes(record, codes, image=1, crop=crop)
    assert not records.has_codes(record, 0)
    assert records.has_codes(record, 1)
    assert records.codes_of(record, 1).tolist() == [[0, 0]]
    assert records.codes_of(record, 1, "center").tolist() == [[2, 2]]
    assert np.stack(records.equal_crops(record, 1)).tolist() == [
        [[0, 0]],
        [[1, 1]],
        [[3, 3]],
    ]
    with pytest.raises(records.RecordError, match="no codes of its image 0"):
        records.codes_of(record)
    with pytest.raises(records.RecordError, match="of the crop 'letterbox' of its im"):
        records.codes_of(record, 1, "letterbox")
    again = records.with_codes(record, np.array([[9, 9]]), image=1, crop="center")
    assert records.codes_of(again, 1, "center").tolist() == [[9, 9]]
    assert records.without_codes(again) == story()
    with pytest.raises(records.RecordError, match="has no image 2; it has 2"):
        records.with_codes(record, np.ones((1, 1), int), image=2)


def test_published_codes_need_no_picture():
    codes = records.codes(np.array([[1, 2]]), "ten_crops/0")
    record = records.make("a", images=[records.picture(b"", codes=[codes])])
    data = records.encode(record)
    assert records.decode(data) == record
    text, files = records.separate(data)
    assert files == b""
    assert records.decode_outline(text) == (record, [0])


def test_a_record_of_text_alone_has_no_picture_at_all(examples):
    text = examples.record() | {"images": []}
    assert records.decode(records.encode(text)) == text
    assert not records.has_image(text)
    with pytest.raises(records.RecordError, match="has no image 0; it has 0"):
        records.first_image(text)


@pytest.mark.parametrize("cut", [0, 1, 50])
def test_damaged_bytes_are_a_sentence(cut, examples):
    data = records.encode(examples.record())[:cut]
    with pytest.raises(records.RecordError, match=r"shard 3, entry 5: .* not a record"):
        records.decode(data, "shard 3, entry 5")
    with pytest.raises(records.RecordError):
        records.decode(msgpack.packb({"id": b"\xff"}) or b"")
