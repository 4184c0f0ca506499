"""The one record schema and its bytes: a msgpack map, one per ArrayRecord entry.

Everything that prepares, pre-tokenises or loads data passes these records, version 3. A
record is a plain dict, so that pure functions of a record serve a script and a Beam job
alike. Those that earlier programs wrote are translated as they are read (`earlier`).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, Unpack, cast

import msgpack
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.storage import earlier

LETTERBOX = "letterbox"  # the crop of codes of a whole picture fitted into a square
ROLES = ("system", "user", "assistant")


class RecordError(DataError):
    """A record does not follow the schema; the message names it."""


class Codes(TypedDict):
    """The codebook indices of one picture, as one tokenizer saw a part of it.

    `data` holds them row by row as little-endian uint16; `grid` is their shape, (rows,
    columns), with the number of codebooks behind if a place has several codes. `crop`
    names the part: "letterbox" (all of it, fitted), "center", "released_random",
    "ten_crops/3", …; those of one family, "ten_crops/…", are equally good.
    """

    data: bytes
    grid: list[int]
    crop: str


class Picture(TypedDict):
    """One picture: its file's bytes as they came, and its codes by crop.

    `images.decoding.decode` reads it as `width` × `height` pixels. `bytes` are empty in
    an outline, and where nothing but codes was published; sides that nobody knows
    because of that are 0.
    """

    bytes: bytes
    width: int
    height: int
    codes: list[Codes]


class Part(TypedDict):
    """A part of a message: {type: "text", text}, or {type: "image", image}.

    `image` is a number in the record's `images`. A text is text whatever it spells.
    """

    type: Literal["text", "image"]
    text: NotRequired[str]
    image: NotRequired[int]


class Message(TypedDict):
    """What one side of a conversation says; the assistant's images are drawn."""

    role: Literal["system", "user", "assistant"]
    content: list[Part]


class Question(TypedDict):
    """A question about a picture with its one right answer; `kind` groups scores."""

    kind: str
    question: str
    answer: str


class Record(TypedDict):
    """One sample for every task.

    `images` are any number, none for text alone. `messages` are one conversation of any
    number of turns; loss falls on what the assistant says. `captions` each describe the
    first image, or are the texts of a record without one, and `questions` are about the
    first image: the compact forms of reading, drawing, pairing. `group` is the key of
    the split: records of one group never stand in two splits. `extra` is whatever else
    the source said, as text.
    """

    id: str
    source: str
    license: str
    images: list[Picture]
    messages: list[Message]
    captions: list[str]
    questions: list[Question]
    group: str
    category: str
    subcategory: str
    keywords: list[str]
    extra: dict[str, str]


class Fields(TypedDict, total=False):
    """The fields of a record that `make` takes."""

    source: str
    license: str
    images: list[Picture]
    messages: list[Message]
    captions: list[str]
    questions: list[Question]
    group: str
    category: str
    subcategory: str
    keywords: list[str]
    extra: dict[str, str]


def make(identity: str, **fields: Unpack[Fields]) -> Record:
    """A record of the fields that a source has; those it lacks are empty.

    Args:
        identity: Its id, which is its `group` too if none is given.
        **fields: Of `Record`.
    """
    return {
        "id": identity,
        "source": fields.get("source", ""),
        "license": fields.get("license", ""),
        "images": fields.get("images", []),
        "messages": fields.get("messages", []),
        "captions": fields.get("captions", []),
        "questions": fields.get("questions", []),
        "group": fields.get("group", identity),
        "category": fields.get("category", ""),
        "subcategory": fields.get("subcategory", ""),
        "keywords": fields.get("keywords", []),
        "extra": fields.get("extra", {}),
    }


def picture(
    data: bytes, width: int = 0, height: int = 0, codes: Sequence[Codes] = ()
) -> Picture:
    """A picture of a file's bytes; sides of 0 are for whoever decodes it to fill in."""
    return {"bytes": data, "width": width, "height": height, "codes": list(codes)}


def codes(indices: np.ndarray, crop: str = LETTERBOX, name: str = "") -> Codes:
    """The codes of a crop of a picture.

    Args:
        indices: int [h, w], or [h, w, K] of K codebooks.
        crop: Which part of the picture they are of.
        name: The record, for messages.

    Raises:
        RecordError: They are no such array of integers in 0 … 65,535.
    """
    of = f"record {name!r}: " if name else ""
    if indices.ndim not in (2, 3) or not np.issubdtype(indices.dtype, np.integer):
        raise RecordError(
            f"{of}codes must be an integer matrix [rows, columns], or such a one for "
            f"each codebook, not {indices.dtype} {list(indices.shape)}"
        )
    if indices.size and (indices.min() < 0 or indices.max() > np.iinfo(np.uint16).max):
        raise RecordError(
            f"{of}codes from {indices.min()} to {indices.max()} do not fit 16 bits"
        )
    return {
        "data": indices.astype("<u2").tobytes(),
        "grid": [int(side) for side in indices.shape],
        "crop": crop,
    }


def text(content: str) -> Part:
    """A part of a message that is text, whatever it spells."""
    return {"type": "text", "text": content}


def image(number: int) -> Part:
    """A part of a message that is the record's image `number`."""
    return {"type": "image", "image": number}


def message(
    role: Literal["system", "user", "assistant"], *content: Part | str
) -> Message:
    """A message of a conversation; strings are texts."""
    parts = [text(part) if isinstance(part, str) else part for part in content]
    return {"role": role, "content": parts}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_length(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_questions(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and item.keys() == _QUESTION
        and all(_is_name(text) for text in item.values())
        for item in value
    )


def _is_grid(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) in (2, 3) and all(map(_is_length, value))
    )


def _is_extra(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_name(key) and isinstance(text, str) for key, text in value.items()
    )


_QUESTION = Question.__annotations__.keys()
_PICTURE = Picture.__annotations__.keys()
_CODES = Codes.__annotations__.keys()
_MESSAGE = Message.__annotations__.keys()
_TEXT, _IMAGE = {"type", "text"}, {"type", "image"}
_ROLES = ", ".join(ROLES)
_TEXTS = ("a list of strings", _is_texts)
_STRING = ("a string", _is_text)

# key → (what it must be, in words for the message; the check)
_SCHEMA: dict[str, tuple[str, Callable[[object], bool]]] = {
    "id": ("a non-empty string", _is_name),
    "source": _STRING,
    "license": _STRING,
    "images": ("a list of pictures", lambda value: isinstance(value, list)),
    "messages": ("a list of messages", lambda value: isinstance(value, list)),
    "captions": _TEXTS,
    "questions": ("a list of {kind, question, answer} strings", _is_questions),
    "group": ("a non-empty string", _is_name),
    "category": _STRING,
    "subcategory": _STRING,
    "keywords": _TEXTS,
    "extra": ("a map of strings", _is_extra),
}


Where = str | Callable[[], str]  # a place for messages, maybe put in words when needed


def validate(record: object, where: Where = "", *, outline: bool = False) -> Record:
    """Returns `record` unchanged if it follows the schema.

    Args:
        record: What should be a record.
        where: The file or position it came from, for the message.
        outline: Whether it may lack the bytes of its pictures.

    Raises:
        RecordError: A key is missing, unknown or of the wrong type, codes do not fill
            their grid, or a message names an image that there is not.
    """
    if not isinstance(record, dict):
        raise RecordError(
            f"{_place(where)}a record must be a map of its fields, not {_type(record)}"
        )
    try:
        _check(record, outline)
    except _Fault as fault:
        identity = record.get("id")
        named = f"record {identity!r}" if _is_name(identity) else "a record without id"
        raise RecordError(f"{_place(where)}{named}{fault}") from None
    return cast(Record, record)


class _Fault(Exception):
    """What is wrong with a record, in words that stand behind its name."""


def _check(record: dict[Any, Any], outline: bool) -> None:
    for key, (wanted, check) in _SCHEMA.items():
        if key not in record:
            raise _Fault(f" lacks the key {key!r} ({wanted})")
        if not check(record[key]):
            raise _Fault(f": {key!r} must be {wanted}, not {_type(record[key])}")
    if len(record) > len(_SCHEMA):
        unknown = ", ".join(sorted(map(str, record.keys() - _SCHEMA.keys())))
        raise _Fault(
            f" has unknown keys: {unknown}; the schema has {', '.join(_SCHEMA)}"
        )
    for number, shown in enumerate(record["images"]):
        _check_picture(shown, f": image {number}", outline)
    messages = record["messages"]
    for number, said in enumerate(messages):
        _check_message(said, f": message {number}", len(record["images"]))
    if messages and not any(said["role"] == "assistant" for said in messages):
        raise _Fault(
            ": its messages have no answer of the assistant, so nothing is learnt"
        )


def _check_picture(picture: Any, name: str, outline: bool) -> None:
    if not isinstance(picture, dict) or picture.keys() != _PICTURE:
        raise _Fault(f"{name} must be a map of {', '.join(_PICTURE)}: {_type(picture)}")
    held, coded = picture["bytes"], picture["codes"]
    if not isinstance(coded, list):
        raise _Fault(f"{name} must have a list of 'codes', not {_type(coded)}")
    crops: set[str] = set()
    for entry in coded:
        _check_codes(entry, name)
        if entry["crop"] in crops:
            raise _Fault(f"{name} has codes of the crop {entry['crop']!r} twice")
        crops.add(entry["crop"])
    if not isinstance(held, bytes) or not (held or coded or outline):
        raise _Fault(
            f"{name} must have the bytes of a picture as 'bytes', not {_type(held)}"
        )
    sides = picture["width"], picture["height"]
    if not held and coded and sides == (0, 0):
        return  # codes alone, of a picture whose size nobody knows
    for key, side in zip(("width", "height"), sides, strict=True):
        if not _is_length(side):
            raise _Fault(
                f"{name} must have a positive integer as {key!r}, not {_type(side)}"
            )


def _check_codes(codes: Any, name: str) -> None:
    if not isinstance(codes, dict) or codes.keys() != _CODES:
        raise _Fault(
            f"{name} has codes that are no map of {', '.join(_CODES)}: {_type(codes)}"
        )
    data, grid, crop = codes["data"], codes["grid"], codes["crop"]
    if not _is_grid(grid):
        raise _Fault(
            f"{name} has codes that must have a 'grid' of [rows, columns] or [rows, "
            f"columns, codebooks], not {_type(grid)}"
        )
    if not isinstance(data, bytes) or not _is_name(crop):
        raise _Fault(
            f"{name} has codes that must have bytes of 'data' and a name of 'crop', "
            f"not {_type(crop)}"
        )
    if len(data) != 2 * math.prod(grid):
        raise _Fault(
            f"{name} has codes that are {len(data)} bytes and do not fill a grid of "
            f"{' × '.join(map(str, grid))} 16-bit codes"
        )


def _check_message(said: Any, name: str, images: int) -> None:
    if not isinstance(said, dict) or said.keys() != _MESSAGE:
        raise _Fault(f"{name} must be a map of {', '.join(_MESSAGE)}: {_type(said)}")
    role, content = said["role"], said["content"]
    if role not in ROLES:
        raise _Fault(f"{name} has the role {_type(role)}, not one of {_ROLES}")
    if not isinstance(content, list):
        raise _Fault(f"{name} must have a list of parts, not {_type(content)}")
    for part in content:
        _check_part(part, name, images)
    if role == "assistant" and not any(map(_says, content)):
        raise _Fault(
            f"{name} is the assistant's and says nothing; leave the empty answer out, "
            "or the record"
        )


def _check_part(part: Any, name: str, images: int) -> None:
    keys = part.keys() if isinstance(part, dict) else None
    if keys == _TEXT and part["type"] == "text" and _is_text(part["text"]):
        return
    if keys == _IMAGE and part["type"] == "image" and _is_length(part["image"], 0):
        if part["image"] < images:
            return
        raise _Fault(
            f"{name} shows image {part['image']}, but there are {images}, counted from "
            "0"
        )
    raise _Fault(
        f"{name} has a part that is neither {{type: 'text', text}} nor {{type: "
        f"'image', image}}: {_type(part)}"
    )


def _says(part: Mapping[str, Any]) -> bool:
    return part["type"] == "image" or bool(part["text"].strip())


def _place(where: Where) -> str:
    said = where if isinstance(where, str) else where()
    return f"{said}: " if said else ""


def has_image(record: Record) -> bool:
    """Whether a record is of a picture, and not of text alone."""
    return bool(record["images"])


def first_image(record: Record) -> Picture:
    """The picture that captions and questions are about.

    Raises:
        RecordError: The record is of text alone.
    """
    return image_of(record, 0)


def image_of(record: Record, image: int = 0) -> Picture:
    """One of a record's pictures.

    Raises:
        RecordError: There are fewer.
    """
    if not 0 <= image < len(record["images"]):
        raise RecordError(
            f"record {record['id']!r} has no image {image}; it has "
            f"{len(record['images'])}"
        )
    return record["images"][image]


def encode(record: Record) -> bytes:
    """The bytes of a validated record; equal records give equal bytes."""
    checked = validate(record)
    ordered: dict[str, Any] = {key: checked[key] for key in _SCHEMA}
    ordered["images"] = [
        _ordered(shown, _PICTURE)
        | {"codes": [_ordered(entry, _CODES) for entry in shown["codes"]]}
        for shown in checked["images"]
    ]
    ordered["messages"] = [
        {
            "role": said["role"],
            "content": [
                {"type": part["type"], part["type"]: part[part["type"]]}
                for part in said["content"]
            ],
        }
        for said in cast(list[dict[str, Any]], checked["messages"])
    ]
    ordered["questions"] = [_ordered(item, _QUESTION) for item in checked["questions"]]
    ordered["extra"] = dict(sorted(checked["extra"].items()))
    return cast(bytes, msgpack.packb(ordered, use_bin_type=True))


def _ordered(fields: Mapping[str, Any], keys: Any) -> dict[str, Any]:
    return {key: fields[key] for key in keys}


def separate(data: bytes) -> tuple[bytes, bytes]:
    """Parts an encoded record into all but its pictures' bytes, and those.

    In place of the bytes of each picture stands their number; the bytes of all follow
    one another. What is no record comes back as it is.
    """
    value = msgpack.unpackb(data, raw=False)
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list):
        return data, b""
    files = [shown["bytes"] for shown in images]
    rest = [{**shown, "bytes": len(shown["bytes"])} for shown in images]
    text = msgpack.packb({**value, "images": rest}, use_bin_type=True)
    return cast(bytes, text), b"".join(files)


def decode(data: bytes, where: Where = "") -> Record:
    """The record of `data`; `where` names its place in messages.

    Raises:
        RecordError: The bytes are no msgpack map of the schema.
    """
    return validate(earlier.translated(_unpack(data, where)), where)


def decode_outline(data: bytes, where: Where = "") -> tuple[Record, list[int]]:
    """The record without its pictures' bytes that `separate` gave, and their numbers.

    Raises:
        RecordError: The bytes are no such record.
    """
    value = earlier.translated(_unpack(data, where))
    images = value.get("images") if isinstance(value, dict) else None
    lengths = [
        shown.get("bytes") if isinstance(shown, dict) else None
        for shown in (images if isinstance(images, list) else [None])
    ]
    if not isinstance(images, list) or not all(_is_length(n, 0) for n in lengths):
        raise RecordError(
            f"{_place(where)}{_type(value)} is no record whose pictures stand in "
            "another file; prepare the data again"
        )
    value["images"] = [{**shown, "bytes": b""} for shown in images]
    record = validate(value, where, outline=True)
    for shown, length in zip(record["images"], lengths, strict=True):
        sides = f"{shown['width']} × {shown['height']}"
        if (not shown["codes"] or shown["width"]) if not length else not shown["width"]:
            raise RecordError(
                f"{_place(where)}record {record['id']!r} is of {sides} pixels and its "
                f"picture of {length} bytes; prepare the data again"
            )
    return record, cast(list[int], lengths)


def outline(record: Record) -> Record:
    """A copy of a record without its pictures' bytes."""
    images: list[Picture] = [{**shown, "bytes": b""} for shown in record["images"]]
    return {**record, "images": images}


def with_images(
    record: Record, files: bytes, lengths: Sequence[int], where: Where = ""
) -> Record:
    """A copy of an outline with its pictures' bytes.

    Args:
        record: The outline.
        files: The bytes of all pictures, one after another.
        lengths: How many bytes each of them has.
        where: Its place, for messages.

    Raises:
        RecordError: They are not as many as the record says.
    """
    if len(files) != sum(lengths):
        raise RecordError(
            f"{_place(where)}record {record['id']!r} has pictures of {sum(lengths)} "
            f"bytes, but the file of pictures holds {len(files)} for it; copy the data "
            "set again or prepare the data again"
        )
    ends = itertools.accumulate(lengths)
    images: list[Picture] = [
        {**shown, "bytes": files[end - length : end]}
        for shown, length, end in zip(record["images"], lengths, ends, strict=True)
    ]
    return {**record, "images": images}


def _unpack(data: bytes, where: Where) -> object:
    try:
        return msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(
            f"{_place(where)}{len(data)} bytes are not a record ({error}); the file "
            "was damaged or written by another program: prepare the data again"
        ) from error


def with_codes(
    record: Record, indices: np.ndarray, *, image: int = 0, crop: str = LETTERBOX
) -> Record:
    """A copy of `record` with the codes of a crop of an image, put behind its others.

    Args:
        record: A record.
        indices: int [h, w], or [h, w, K] of K codebooks.
        image: Which of its pictures they are of.
        crop: Which part of it; codes that were there of that part are replaced.

    Raises:
        RecordError: There is no such image, or they are no such array of integers in
            0 … 65,535.
    """
    shown = image_of(record, image)
    kept = [entry for entry in shown["codes"] if entry["crop"] != crop]
    changed = picture(
        shown["bytes"],
        shown["width"],
        shown["height"],
        [*kept, codes(indices, crop, record["id"])],
    )
    images = [*record["images"][:image], changed, *record["images"][image + 1 :]]
    return {**record, "images": images}


def without_codes(record: Record) -> Record:
    """A copy of `record` whose pictures have no codes."""
    images: list[Picture] = [{**shown, "codes": []} for shown in record["images"]]
    return {**record, "images": images}


def has_codes(record: Record, image: int = 0) -> bool:
    """Whether one of a record's pictures was pre-tokenised."""
    return bool(image_of(record, image)["codes"])


def grid_of(record: Record, image: int = 0, crop: str | None = None) -> list[int]:
    """The shape of the codes of one of a record's pictures, see `codes_of`.

    Raises:
        RecordError: There is no such image, or it has no such codes.
    """
    return _find_codes(record, image, crop)["grid"]


def codes_of(record: Record, image: int = 0, crop: str | None = None) -> np.ndarray:
    """The codebook indices of a picture, int32 [h, w] or [h, w, K].

    Args:
        record: A record.
        image: Which of its pictures.
        crop: Which part of it; None is the first that has codes.

    Raises:
        RecordError: There is no such image, or it has no such codes.
    """
    return _array(_find_codes(record, image, crop))


def equal_crops(record: Record, image: int = 0) -> list[np.ndarray]:
    """The codes of a picture's equally good crops, each as `codes_of` gives them.

    Those are the crops of one family with the first, such as all of "ten_crops/…".

    Raises:
        RecordError: There is no such image, or it has no codes.
    """
    family = _find_codes(record, image, None)["crop"].split("/")[0]
    every = image_of(record, image)["codes"]
    return [_array(one) for one in every if one["crop"].split("/")[0] == family]


def _find_codes(record: Record, image: int, crop: str | None) -> Codes:
    found = image_of(record, image)["codes"]
    for entry in found:
        if crop is None or entry["crop"] == crop:
            return entry
    of = f"its image {image}" if len(record["images"]) > 1 else "its picture"
    if found:
        raise RecordError(
            f"record {record['id']!r} holds no codes of the crop {crop!r} of {of}, but "
            f"of {', '.join(entry['crop'] for entry in found)}; pre-tokenise the data "
            "set with that crop"
        )
    what = f" of {of}" if len(record["images"]) > 1 else ""
    raise RecordError(
        f"record {record['id']!r} holds no codes{what}; pre-tokenise the data set first"
    )


def _array(codes: Codes) -> np.ndarray:
    flat = np.frombuffer(codes["data"], dtype="<u2").astype(np.int32)
    return flat.reshape(codes["grid"])


def _type(value: object) -> str:
    text = repr(value)
    shown = text if len(text) <= 40 else text[:37] + "…"
    return f"{type(value).__name__} {shown}"
