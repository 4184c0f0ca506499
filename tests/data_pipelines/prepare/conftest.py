"""Tiny zips cut out of the embedded pictures, whole or with faults put in."""

import json
import zipfile
from pathlib import Path

import pytest

from data_pipelines.prepare.pictures import Archive, Picture, read_pictures

PICTURES = Path(__file__).parents[3] / "data" / "pictures.zip"
# Every so manieth line: 52 pictures of nearly all categories, beside the plain ones.
STRIDE = 110
PLAIN = ("red heart", "blue circle", "star", "cat", "pig", "red apple", "pizza", "bus")
PLAIN += ("guitar", "hammer", "key", "flag: denmark", "rose", "locomotive", "violin")


@pytest.fixture(scope="session")
def lines() -> list[dict]:
    """Some lines of the embedded captions.jsonl."""
    with zipfile.ZipFile(PICTURES) as file:
        every = [json.loads(line) for line in file.read("captions.jsonl").splitlines()]
    emoji = [entry for entry in every if entry["source"] == "noto-emoji"]
    plain = [entry for entry in emoji if entry["caption"] in PLAIN]
    return every[::STRIDE] + [e for e in plain if e not in every[::STRIDE]]


@pytest.fixture
def make_zip(tmp_path, lines):
    """Writes a zip of `lines`, with other listed lines or files in their place."""

    def make(
        entries: list | None = None,
        files: dict[str, bytes] | None = None,
        name: str = "tiny.zip",
    ) -> Path:
        chosen = lines if entries is None else entries
        given = files or {}
        listing = "\n".join(e if isinstance(e, str) else json.dumps(e) for e in chosen)
        with (
            zipfile.ZipFile(PICTURES) as source,
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            target.writestr("captions.jsonl", listing)
            for path in sorted({entry["image"] for entry in lines} - given.keys()):
                target.writestr(path, source.read(path))
            for path, data in given.items():
                target.writestr(path, data)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory, lines) -> list[Picture]:
    """The pictures of `lines`, decoded."""
    path = tmp_path_factory.mktemp("pictures") / "tiny.zip"
    with zipfile.ZipFile(PICTURES) as source, zipfile.ZipFile(path, "w") as target:
        target.writestr("captions.jsonl", "\n".join(map(json.dumps, lines)))
        for image in {entry["image"] for entry in lines}:
            target.writestr(image, source.read(image))
    with Archive(path) as archive:
        read = list(read_pictures(archive, image_size=64, max_pixels=10**6))
    assert all(isinstance(picture, Picture) for picture in read)
    return read
