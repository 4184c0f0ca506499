"""Captioned pictures in a zip: captions.jsonl beside the files it names.

Every line is checked and its picture decoded. What cannot be used is set aside with a
reason; nothing is dropped in silence, and nothing is unpacked to the disk.
"""

import io
import re
import reprlib
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import decoding, transforms
from data_pipelines.prepare.captions import clean
from data_pipelines.prepare.colors import single_color
from data_pipelines.prepare.identity import plain_name
from data_pipelines.prepare.nouns import Annotation
from data_pipelines.prepare.split import thumbnail
from data_pipelines.storage.manifest import file_digest
from unitoken_jax import files

LISTING = "captions.jsonl"

_MAX_LISTING_BYTES = 256 * 1024 * 1024
_MAX_PICTURE_BYTES = 32 * 1024 * 1024
# Differences from white that an eye may see.
_VISIBLE = 16
_SINGLE_COLOR_SHARE = 0.8
_MAX_LETTERS = 10_000  # of any text
_MAX_KEYWORDS = 1_000
# U+0080 … U+009F are left out: letters of Windows that were read as Latin-1.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
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
        is_turned: Whether its EXIF says that it is to be turned or mirrored.
    """

    annotation: Annotation
    data: bytes
    pixels: Image.Image
    thumbnail: np.ndarray
    color: str | None
    is_turned: bool


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
        except Exception as error:  # zipfile raises nearly anything on damaged bytes
            raise SourceError(
                f"{path} is not a readable zip ({error}); download or copy it again"
            ) from error
        self._members: dict[str, list[zipfile.ZipInfo]] = defaultdict(list)
        self._spellings: dict[str, set[str]] = defaultdict(set)
        for info in self._zip.infolist():
            self._members[info.filename].append(info)
            self._spellings[plain_name(info.filename)].add(info.filename)
        if LISTING not in self._members:
            self._zip.close()
            raise SourceError(
                f"{path} holds no {LISTING}, the list of its pictures; "
                "--input takes a zip of pictures with that file at its top"
            )

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def listing(self) -> bytes:
        """The bytes of captions.jsonl.

        Raises:
            SourceError: They cannot be read.
        """
        try:
            return self._read(LISTING, _MAX_LISTING_BYTES)
        except EntryError as error:
            raise SourceError(f"{self.path}: {error}") from error

    def find(self, name: str) -> str:
        """A picture's name as the archive spells it.

        It may differ in `./`, in `//` and in how letters are composed.

        Raises:
            EntryError: There is no such file, or it is not clear which one is meant.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise EntryError(f"the file name {name!r} leads out of the archive")
        if name in self._members:
            return name
        spellings = self._spellings.get(plain_name(name), set())
        if not spellings:
            raise EntryError(f"the file {name} is not in the archive")
        if len(spellings) > 1:
            raise EntryError(
                f"the archive has {len(spellings)} files that differ from {name} in "
                "spelling only"
            )
        return next(iter(spellings))

    def read(self, name: str) -> bytes:
        """The bytes of one picture.

        Args:
            name: As the archive spells it.

        Raises:
            EntryError: There is no such file, it is too large or damaged.
        """
        return self._read(name, _MAX_PICTURE_BYTES)

    def _read(self, name: str, limit: int) -> bytes:
        found = self._members.get(name, [])
        if not found:
            raise EntryError(f"the file {name} is not in the archive")
        if len(found) > 1:
            raise EntryError(f"the archive has {len(found)} files of the name {name}")
        (info,) = found
        if info.file_size > limit:
            raise EntryError(
                f"the file {name} has {info.file_size:,} bytes unpacked; at most "
                f"{limit:,} are read"
            )
        try:
            # A zip may lie about the size: never unpack more than the limit.
            with self._zip.open(info) as file:
                data = file.read(limit + 1)
        except Exception as error:  # so do its decompressors
            raise EntryError(
                f"the file {name} is damaged in the archive ({error})"
            ) from error
        if len(data) > limit:
            raise EntryError(f"the file {name} unpacks to more than {limit:,} bytes")
        return data


def read_pictures(
    archive: Archive,
    image_size: int,
    max_pixels: int,
    policy: decoding.Policy = "released",
) -> Iterator[Picture | Rejection]:
    """Every line of the archive's list, usable or set aside, in order."""
    seen: dict[str, int] = {}
    for line in files.json_lines(archive.listing()):
        record = f"{LISTING}, line {line.number}"
        try:
            if line.fault is not None:
                raise EntryError(f"the line cannot be read: {line.fault}")
            annotation = read_annotation(line.value)
            record = annotation["image"]
            name = archive.find(record)
            if name in seen:
                raise EntryError(
                    f"line {line.number} names the picture of an earlier line, "
                    f"{seen[name]}"
                )
            seen[name] = line.number
            data = archive.read(name)
            yield read_picture(annotation, data, image_size, max_pixels, policy)
        except DataError as error:
            yield Rejection(record, str(error))


def commonest(rejected: Sequence[Rejection], most: int = 3) -> str:
    """The commonest reasons for which lines were set aside, each with an example."""
    groups: dict[str, list[Rejection]] = defaultdict(list)
    for entry in rejected:
        kind = entry.reason.replace(entry.record, "")
        groups[re.sub(r"\d[\d,.]*", "0", kind)].append(entry)
    chosen = sorted(groups.values(), key=len, reverse=True)[:most]
    return "; ".join(
        f"{len(group):,} × {group[0].reason} ({group[0].record})" for group in chosen
    )


def read_annotation(entry: object) -> Annotation:
    """A line of captions.jsonl, checked, with its texts in clean lower case.

    Args:
        entry: What the line says.

    Raises:
        EntryError: It is no JSON object, or a field is missing, blank, no text or one
            that no model could learn.
    """
    if not isinstance(entry, dict):
        raise EntryError("the line is not a JSON object")
    for key in _TEXTS:
        value = entry.get(key)
        if value is None or value == "":
            raise EntryError(f"the {key} is missing")
        _check_text(value, key)
    keywords = entry.get("keywords", [])
    if not isinstance(keywords, list) or not all(isinstance(k, str) for k in keywords):
        raise EntryError(
            f"the keywords are not a list of texts: {reprlib.repr(keywords)}"
        )
    if len(keywords) > _MAX_KEYWORDS:
        raise EntryError(f"there are {len(keywords):,} keywords")
    keywords = [keyword for keyword in keywords if not _is_blank(keyword)]
    for keyword in keywords:
        _check_text(keyword, "keyword")
    annotation = {key: clean(entry[key]) for key in _TEXTS}
    annotation |= {key: entry[key] for key in ("image", "source", "license")}
    cleaned = [clean(keyword) for keyword in keywords]
    return cast(Annotation, annotation | {"keywords": cleaned})


def _check_text(value: object, key: str) -> None:
    """Refuses what is no text, a blank or huge one, or one with control characters."""
    if not isinstance(value, str):
        raise EntryError(f"the {key} is not a text: {reprlib.repr(value)}")
    if len(value) > _MAX_LETTERS:
        raise EntryError(
            f"the {key} has {len(value):,} letters; at most {_MAX_LETTERS:,} are read"
        )
    if _is_blank(value):
        raise EntryError(f"the {key} is not a text: {value!r} is blank")
    if control := _CONTROLS.search(value if key == "image" else clean(value)):
        raise EntryError(
            f"the {key} holds U+{ord(control[0]):04X}, which is not a letter"
        )


def _is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen once entities are read."""
    kinds = {unicodedata.category(letter) for letter in clean(text[:_MAX_LETTERS])}
    return kinds <= {"Cc", "Cf", "Zs", "Zl", "Zp"}


def read_picture(
    annotation: Annotation,
    data: bytes,
    image_size: int,
    max_pixels: int,
    policy: decoding.Policy = "released",
) -> Picture:
    """Decodes the picture of an annotation, scaled down if it is larger than asked for.

    The bytes that are kept need no policy any more: a picture that was turned is stored
    as it is seen.

    Args:
        annotation: Of `read_annotation`.
        data: The file.
        image_size: Longest side in pixels that is kept.
        max_pixels: Larger pictures are refused before they are decompressed.
        policy: How EXIF's orientation is read.

    Raises:
        DataError: The file is damaged, no picture, or shows nothing.
    """
    picture = decoding.decode(data, annotation["image"], max_pixels, policy)
    is_turned = decoding.orientation(picture) != 1
    is_large = max(picture.size) > image_size
    if is_large:
        picture = transforms.fit(picture, image_size, Image.Resampling.LANCZOS)
    if is_large or (is_turned and policy == "upright"):
        file = io.BytesIO()
        # RGBA even where nothing is clear: the same bytes as ever
        picture.convert("RGBA").save(file, "PNG")
        data = file.getvalue()
    white = np.asarray(transforms.composite(picture))
    if white.min() > 255 - _VISIBLE:
        raise EntryError("the picture is blank on a white background")
    color = single_color(np.asarray(picture.convert("RGBA")), _SINGLE_COLOR_SHARE)
    return Picture(annotation, data, picture, thumbnail(picture), color, is_turned)
