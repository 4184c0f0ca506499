"""Bad lines, files and archives: each set aside or refused with its sentence."""

import contextlib
import io
import json
import random
import zipfile
from itertools import islice

import crafted
import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import decoding
from data_pipelines.prepare.job import picture_record
from data_pipelines.prepare.pictures import (
    Archive,
    EntryError,
    Picture,
    Rejection,
    SourceError,
    commonest,
    read_annotation,
    read_pictures,
)
from data_pipelines.storage import records


def _png(size, color=(255, 0, 0, 255)):
    file = io.BytesIO()
    Image.new("RGBA", size, color).save(file, "PNG")
    return file.getvalue()


def _read(path, max_pixels=10**6):
    with Archive(path) as archive:
        return list(read_pictures(archive, image_size=64, max_pixels=max_pixels))


def test_sound_pictures_keep_their_bytes_or_are_scaled_down(make_zip, lines):
    read = _read(make_zip())
    assert len(read) == len(lines)
    for entry, picture in zip(lines, read, strict=True):
        assert isinstance(picture, Picture)
        assert picture.annotation["image"] == entry["image"]
        assert max(picture.pixels.size) == min(64, max(entry["width"], entry["height"]))
        decoded = Image.open(io.BytesIO(picture.data))
        assert decoded.size == picture.pixels.size


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no picture", "is not an image"),
        (_png((64, 64))[:70], "is damaged"),
        (_png((2000, 1000)), "2000 × 1000 = 2,000,000 pixels; at most 1,000,000"),
        (_png((64, 64), (9, 9, 9, 0)), "blank on a white background"),
        (_png((64, 64), (255, 250, 255, 255)), "blank on a white background"),
    ],
)
def test_bad_picture_is_set_aside(make_zip, lines, data, reason):
    name = lines[3]["image"]
    read = _read(make_zip(files={name: data}))
    bad = [item for item in read if isinstance(item, Rejection)]
    assert len(read) == len(lines)
    assert [item.record for item in bad] == [name]
    assert reason in bad[0].reason


def test_bad_lines_are_set_aside(make_zip, lines):
    good = lines[0]
    entries = [
        good,
        {key: value for key, value in lines[1].items() if key != "caption"},
        lines[2] | {"caption": "  "},
        lines[3] | {"image": "images/none.webp"},
        lines[4] | {"image": "../../etc/passwd"},
        lines[5] | {"concept": 7},
        lines[6] | {"keywords": "one"},
        "{broken",
        "[]",
        good,
    ]
    read = _read(make_zip(entries))
    assert isinstance(read[0], Picture)
    reasons = [item.reason for item in read[1:]]
    expected = [
        "the caption is missing",
        "the caption is not a text",
        "images/none.webp is not in the archive",
        "leads out of the archive",
        "the concept is not a text: 7",
        "keywords are not a list",
        "not JSON",
        "not a JSON object",
        "line 10 names the picture of an earlier line",
    ]
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
    assert read[1].record == "captions.jsonl, line 2"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"caption": "&nbsp;"}, "the caption is not a text: '&nbsp;' is blank"),
        ({"caption": "\u200b \ufeff"}, "the caption is not a text"),
        ({"concept": "&#32;&#x20;"}, "the concept is not a text"),
        ({"category": "\u2060"}, "the category is not a text"),
        ({"caption": "a\0b"}, r"the caption holds U\+0000"),
        ({"caption": "\x1b[31mred"}, r"the caption holds U\+001B"),
        ({"image": "a\nb.png"}, r"the image holds U\+000A"),
        ({"keywords": ["a", "b\0"]}, r"the keyword holds U\+0000"),
        ({"keywords": ["a", 7]}, "the keywords are not a list of texts"),
        ({"keywords": ["a"] * 1001}, "there are 1,001 keywords"),
        ({"caption": "a" * 1_000_000}, "the caption has 1,000,000 letters; at most"),
        ({"concept": ["a"] * 100_000}, "the concept is not a text: .{,200}$"),
        ({"license": 10**400}, "the license is not a text: .{,200}$"),
        ({"source": True}, "the source is not a text: True"),
        ({"image": None}, "the image is missing"),
    ],
)
def test_texts_that_cannot_be_used(lines, change, reason):
    with pytest.raises(EntryError, match=reason):
        read_annotation(lines[0] | change)


@pytest.mark.parametrize(
    "caption",
    [
        "\u202ethgir ot tfel\u202c",
        "\u05e9\u05dc\u05d5\u05dd",
        "two\u2028lines",
        "one\u0085next",
        "l\u009aw",
        "\U0001f1e9\U0001f1f0",
        ": red",
        "red:",
        "<s> <image>",
        "man: ",
        "a" * 10_000,
    ],
)
def test_odd_texts_are_kept(lines, caption):
    annotation = read_annotation(lines[0] | {"caption": caption, "keywords": ["", "a"]})
    assert annotation["keywords"] == ["a"]
    record = picture_record(
        Picture(annotation, b"x", Image.new("RGB", (2, 2)), np.zeros(1), None, False),
        *("id", {}, 0),
    )
    decoded = records.decode(records.encode(record))
    assert decoded["captions"][0] == " ".join(caption.lower().split())


def test_lines_that_are_no_json_are_set_aside(make_zip, lines):
    """Beside them stand lines that only look odd."""
    good = [json.dumps(entry) for entry in lines[:4]]
    entries = [
        "\ufeff" + good[0],
        good[1].replace('"caption": "', r'"caption": "\ud83d'),
        "[" * 100_000,
        good[2].replace('"width":', '"width": NaN, "depth":'),
        "",
        json.dumps(lines[3] | {"caption": "a\u2028b\u0085c"}, ensure_ascii=False),
        '"\ufeff"',
        good[2] + "\r",
    ]
    read = _read(make_zip(entries))
    kinds = [item.reason if isinstance(item, Rejection) else None for item in read]
    expected = [None, "surrogate pair", "nested too deeply", "NaN", None]
    expected += ["not a JSON object", None]
    for reason, part in zip(kinds, expected, strict=True):
        assert part in reason if part else reason is None
    assert read[4].annotation["caption"] == "a b c"
    numbers = [item.record.split()[-1] for item in read if isinstance(item, Rejection)]
    assert numbers == ["2", "3", "4", "7"]


def test_names_are_found_by_what_they_mean(make_zip, lines):
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    files = {composed: _png((8, 8)), "a/b.png": _png((9, 9)), "Twice.png": _png((7, 7))}
    named = [apart, "./a//b.png", "a/b.png", "twice.png", "Twice.png", "a\\b.png", "/a"]
    path = make_zip([lines[0] | {"image": name} for name in named], files)
    read = _read(path)
    sizes = [p.pixels.size[0] if isinstance(p, Picture) else None for p in read]
    assert sizes == [8, 9, None, None, 7, None, None]
    assert "names the picture of an earlier line, 2" in read[2].reason
    assert "twice.png is not in the archive" in read[3].reason
    both = make_zip(
        [lines[0] | {"image": f"./{name}"} for name in (composed, apart)],
        {composed: _png((8, 8)), apart: _png((9, 9))},
        name="both.zip",
    )
    assert all("differ from" in item.reason for item in _read(both))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_two_files_have_is_not_guessed(make_zip, lines):
    path = make_zip()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(lines[1]["image"], _png((8, 8)))
    bad = [item for item in _read(path) if isinstance(item, Rejection)]
    assert [item.record for item in bad] == [lines[1]["image"]]
    assert "has 2 files of the name" in bad[0].reason


def test_pictures_are_turned_upright_on_request(make_zip, lines):
    name = lines[0]["image"]
    path = make_zip(lines[:1], {name: crafted.turned(6, "JPEG")})
    with Archive(path) as archive:
        (released,) = read_pictures(archive, 64, 10**6)
        (upright,) = read_pictures(archive, 64, 10**6, "upright")
    assert released.is_turned
    assert upright.is_turned
    assert released.data == crafted.turned(6, "JPEG")
    assert (released.pixels.size, upright.pixels.size) == ((24, 16), (16, 24))
    for policy in ("released", "upright"):  # readers need not know any more
        stored = decoding.decode(upright.data, "x", policy=policy)
        assert stored.tobytes() == upright.pixels.convert("RGB").tobytes()


def test_commonest_reasons_come_first():
    rejected = [Rejection(f"{i}.png", f"{i}.png has {i:,}.5 sides") for i in range(9)]
    rejected.insert(0, Rejection("captions.jsonl, line 3", "the line is not JSON"))
    told = commonest(rejected)
    assert told.startswith("9 × 0.png has 0.5 sides (0.png); 1 × the line is not JSON")


def test_archives_damaged_anywhere_are_refused_in_a_sentence(tmp_path, make_zip):
    whole = make_zip().read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        # the directory at the end is what opening reads
        for _ in range(rng.choice((1, 3, 20))):
            data[-rng.randrange(1, 6000)] = rng.randrange(256)
        path = tmp_path / "damaged.zip"
        path.write_bytes(data)
        with contextlib.suppress(SourceError), Archive(path) as archive:
            list(islice(read_pictures(archive, 64, 10**6), 3))


def test_texts_are_cleaned(lines):
    entry = lines[0] | {"caption": " Man’s\u00a0 SHOE “e\u0301”", "keywords": ["A"]}
    annotation = read_annotation(entry)
    assert annotation["caption"] == 'man\'s shoe "é"'
    assert annotation["keywords"] == ["a"]
    assert annotation["license"] == lines[0]["license"]


def test_archives_that_cannot_be_used(tmp_path, make_zip):
    with pytest.raises(SourceError, match="does not exist"):
        Archive(tmp_path / "none.zip")
    path = make_zip()
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SourceError, match="not a readable zip"):
        Archive(tmp_path / "cut.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "")
    with pytest.raises(SourceError, match=r"holds no captions\.jsonl"):
        Archive(tmp_path / "other.zip")


def test_damaged_and_huge_members_are_refused(tmp_path, make_zip, lines):
    path = make_zip()
    data = bytearray(path.read_bytes())
    name = lines[2]["image"].encode()
    start = data.index(name) + len(name)
    data[start + 20 : start + 40] = bytes(20)
    path.write_bytes(data)
    with Archive(path) as archive, pytest.raises(EntryError, match="is damaged in the"):
        archive.read(name.decode())
    big = make_zip(files={"bomb.webp": bytes(40 * 1024 * 1024)}, name="bomb.zip")
    assert big.stat().st_size < 2 * 1024 * 1024
    with Archive(big) as archive, pytest.raises(EntryError, match="at most 33,554,432"):
        archive.read("bomb.webp")


def test_thumbnails_do_not_depend_on_hidden_colors(make_zip, lines):
    clear_red = np.zeros((64, 64, 4), np.uint8)
    clear_red[..., 0] = 255
    clear_red[16:48, 16:48] = (0, 0, 255, 255)
    clear_blue = clear_red.copy()
    clear_blue[..., :3] = (0, 0, 255)
    files = {}
    for entry, pixels in zip(lines, (clear_red, clear_blue), strict=False):
        file = io.BytesIO()
        Image.fromarray(pixels, "RGBA").save(file, "PNG")
        files[entry["image"]] = file.getvalue()
    first, second = _read(make_zip(lines[:2], files))
    np.testing.assert_array_equal(first.thumbnail, second.thumbnail)
    assert first.color == second.color == "blue"
