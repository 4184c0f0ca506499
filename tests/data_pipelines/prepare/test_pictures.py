"""Bad lines, files and archives: each set aside or refused with its sentence."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_pipelines.prepare.pictures import (
    Archive,
    EntryError,
    Picture,
    Rejection,
    SourceError,
    read_annotation,
    read_pictures,
)


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


def test_texts_are_cleaned(lines):
    entry = lines[0] | {"caption": " Man’s\u00a0 SHOE “e\u0301”", "keywords": ["A"]}
    annotation = read_annotation(json.dumps(entry).encode())
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


def test_thumbnails_do_not_depend_on_hidden_colours(make_zip, lines):
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
