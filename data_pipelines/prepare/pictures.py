"""Captioned pictures in a zip: captions.jsonl beside the files it names.

Every line is checked and its picture decoded. What cannot be used is set aside with a
reason; nothing is dropped in silence, and nothing is unpacked to the disk.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.errors import DataError
from data_pipelines.manifest import file_digest
from data_pipelines.prepare.captions import clean
from data_pipelines.prepare.colors import single_color
from data_pipelines.prepare.split import thumbnail

LISTING = "captions.jsonl"

_MAX_LISTING_BYTES = 256 * 1024 * 1024
_MAX_PICTURE_BYTES = 32 * 1024 * 1024
# Differences from white that an eye may see.
_VISIBLE = 16
_SINGLE_COLOR_SHARE = 0.8
# RuntimeError: an encrypted member, or one compressed in an unknown way.
_DAMAGES = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
_TEXTS = ("image", "caption", "concept", "category", "subcategory", "source", "license")


class SourceError(DataError):
    """A zip that cannot be used at all."""


class EntryError(DataError):
    """A line of captions.jsonl that cannot be used."""


@dataclass(frozen=True)
class Picture:
    """A usable line of captions.jsonl with its picture.

    Attributes:
        annotation: The line, its texts in clean lower case.
        data: The encoded picture, no side longer than asked for.
        pixels: The decoded picture, RGB or RGBA.
        thumbnail: For near-duplicates.
        color: The name of its colour if it has a single one.
    """

    annotation: dict[str, Any]
    data: bytes
    pixels: Image.Image
    thumbnail: np.ndarray
    color: str | None


@dataclass(frozen=True)
class Rejection:
    """A line that was set aside: its record (image or line number) and the reason."""

    record: str
    reason: str


class Archive:
    """A zip of pictures, read member by member within bounds."""

    def __init__(self, path: Path) -> None:
        """Opens a zip.

        Raises:
            SourceError: It is missing, no zip, or has no captions.jsonl.
        """
        self.path = path
        try:
            self.digest = file_digest(path)
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise SourceError(
                f"{path} does not exist; --input takes a zip of pictures with {LISTING}"
            ) from error
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(
                f"{path} is not a readable zip ({error}); download or copy it again"
            ) from error
        self._members = {info.filename: info for info in self._zip.infolist()}
        if LISTING not in self._members:
            raise SourceError(
                f"{path} holds no {LISTING}, the list of its pictures; "
                "--input takes a zip of pictures with that file at its top"
            )

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def lines(self) -> list[bytes]:
        """The lines of captions.jsonl that are not empty."""
        try:
            data = self._read(LISTING, _MAX_LISTING_BYTES)
        except EntryError as error:
            raise SourceError(f"{self.path}: {error}") from error
        return [line for line in data.splitlines() if line.strip()]

    def read(self, name: str) -> bytes:
        """The bytes of one picture.

        Raises:
            EntryError: There is no such file, it is too large or damaged.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise EntryError(f"the file name {name!r} leads out of the archive")
        return self._read(name, _MAX_PICTURE_BYTES)

    def _read(self, name: str, limit: int) -> bytes:
        info = self._members.get(name)
        if info is None:
            raise EntryError(f"the file {name} is not in the archive")
        if info.file_size > limit:
            raise EntryError(
                f"the file {name} has {info.file_size:,} bytes unpacked; at most "
                f"{limit:,} are read"
            )
        try:
            # A zip may lie about the size: never unpack more than the limit.
            with self._zip.open(info) as file:
                data = file.read(limit + 1)
        except _DAMAGES as error:
            raise EntryError(
                f"the file {name} is damaged in the archive ({error})"
            ) from error
        if len(data) > limit:
            raise EntryError(f"the file {name} unpacks to more than {limit:,} bytes")
        return data


def read_pictures(
    archive: Archive, image_size: int, max_pixels: int
) -> Iterator[Picture | Rejection]:
    """Every line of the archive's list, usable or set aside, in order."""
    seen: set[str] = set()
    for number, line in enumerate(archive.lines(), 1):
        name = f"{LISTING}, line {number}"
        try:
            annotation = read_annotation(line)
            name = annotation["image"]
            if name in seen:
                raise EntryError(f"line {number} names the picture of an earlier line")
            seen.add(name)
            yield read_picture(annotation, archive.read, image_size, max_pixels)
        except DataError as error:
            yield Rejection(name, str(error))


def read_annotation(line: bytes) -> dict[str, Any]:
    """A line of captions.jsonl, checked, with its texts in clean lower case.

    Raises:
        EntryError: It is no JSON object, or a field is missing, empty or no text.
    """
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise EntryError(f"the line is not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise EntryError("the line is not a JSON object")
    for key in _TEXTS:
        value = entry.get(key)
        if value is None or value == "":
            raise EntryError(f"the {key} is missing")
        if not isinstance(value, str) or not value.strip():
            raise EntryError(f"the {key} is not a text: {value!r}")
    keywords = entry.get("keywords", [])
    if not isinstance(keywords, list) or not all(isinstance(k, str) for k in keywords):
        raise EntryError(f"the keywords are not a list of texts: {keywords!r}")
    annotation = {key: clean(entry[key]) for key in _TEXTS}
    annotation |= {key: entry[key] for key in ("image", "source", "license")}
    return annotation | {"keywords": [clean(keyword) for keyword in keywords]}


def read_picture(
    annotation: dict[str, Any],
    read: Callable[[str], bytes],
    image_size: int,
    max_pixels: int,
) -> Picture:
    """Decodes the picture of an annotation, scaled down if it is larger than asked for.

    Args:
        annotation: Of `read_annotation`.
        read: Gives the bytes of a file.
        image_size: Longest side in pixels that is kept.
        max_pixels: Larger pictures are refused before they are decompressed.

    Raises:
        DataError: The file is missing or damaged, no picture, or shows nothing.
    """
    name = annotation["image"]
    data = read(name)
    picture = images.decode(data, name, max_pixels)
    if max(picture.size) > image_size:
        picture = images.fit(picture, image_size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        # RGBA even where nothing is clear: the same bytes as ever
        picture.convert("RGBA").save(file, "PNG")
        data = file.getvalue()
    white = np.asarray(images.composite(picture))
    if white.min() > 255 - _VISIBLE:
        raise EntryError("the picture is blank on a white background")
    color = single_color(np.asarray(picture.convert("RGBA")), _SINGLE_COLOR_SHARE)
    return Picture(annotation, data, picture, thumbnail(picture), color)
