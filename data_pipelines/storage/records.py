"""The one record schema and its bytes: a msgpack map, one per ArrayRecord entry.

Everything that prepares, pre-tokenises or loads data passes these records. A record
is a plain dict, so that pure functions of a record serve a script and a Beam job alike.
"""

import math
from collections.abc import Callable
from typing import Any, TypedDict, cast

import msgpack
import numpy as np

from data_pipelines.errors import DataError


class RecordError(DataError):
    """A record does not follow the schema; the message names it."""


class Question(TypedDict):
    """A question about a picture with its one right answer; `kind` groups scores."""

    kind: str
    question: str
    answer: str


class Record(TypedDict):
    """One captioned picture.

    `image` is a picture file that `images.decode` reads as `width` × `height` pixels; a
    record of text alone has no bytes and sides of 0. `concept` is
    the key of the split: records of one concept never stand in two splits. `codes` are
    the codebook indices of a pre-tokenised picture, row by row as little-endian uint16,
    and `grid` their shape: (rows, columns), and the number of codebooks behind them
    if a place of the picture has several codes.
    """

    id: str
    image: bytes
    width: int
    height: int
    captions: list[str]
    questions: list[Question]
    concept: str
    category: str
    subcategory: str
    keywords: list[str]
    source: str
    license: str
    codes: bytes | None
    grid: list[int] | None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_questions(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and item.keys() == Question.__annotations__.keys()
        and all(_is_name(text) for text in item.values())
        for item in value
    )


def _is_grid(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) in (2, 3) and all(map(_is_length, value))
    )


# key → (what it must be, in words for the message; the check)
_SCHEMA: dict[str, tuple[str, Callable[[object], bool]]] = {
    "id": ("a non-empty string", _is_name),
    "image": ("the bytes of a picture", lambda v: isinstance(v, bytes) and bool(v)),
    "width": ("a positive integer", _is_length),
    "height": ("a positive integer", _is_length),
    "captions": ("a list of strings", _is_texts),
    "questions": ("a list of {kind, question, answer} strings", _is_questions),
    "concept": ("a non-empty string", _is_name),
    "category": ("a string", lambda v: isinstance(v, str)),
    "subcategory": ("a string", lambda v: isinstance(v, str)),
    "keywords": ("a list of strings", _is_texts),
    "source": ("a string", lambda v: isinstance(v, str)),
    "license": ("a string", lambda v: isinstance(v, str)),
    "codes": ("bytes or nothing", lambda v: v is None or isinstance(v, bytes)),
    "grid": ("[rows, columns], [rows, columns, codebooks] or nothing", _is_grid),
}

_NO_PICTURE = {"image": b"", "width": 0, "height": 0}  # of a record of text alone


Where = str | Callable[[], str]  # a place for messages, maybe put in words when needed


def validate(record: object, where: Where = "", *, outline: bool = False) -> Record:
    """Returns `record` unchanged if it follows the schema.

    Args:
        record: What should be a record.
        where: The file or position it came from, for the message.
        outline: Whether it may lack the bytes of its picture.

    Raises:
        RecordError: A key is missing, unknown or of the wrong type, or `codes` and
            `grid` disagree.
    """
    if not isinstance(record, dict):
        raise RecordError(
            f"{_place(where)}a record must be a map of its fields, not {_type(record)}"
        )
    if fault := _fault(record, outline):
        identity = record.get("id")
        named = f"record {identity!r}" if _is_name(identity) else "a record without id"
        raise RecordError(f"{_place(where)}{named}{fault}")
    return cast(Record, record)


def _fault(record: dict[Any, Any], outline: bool) -> str:
    """What is wrong with a record, behind its name; "" if nothing."""
    is_text = all(record.get(key) == nothing for key, nothing in _NO_PICTURE.items())
    for key, (wanted, check) in _SCHEMA.items():
        if key not in record:
            return f" lacks the key {key!r} ({wanted})"
        spared = is_text and key in _NO_PICTURE
        spared |= outline and key == "image" and record[key] == b""
        if not check(record[key]) and not spared:
            return f": {key!r} must be {wanted}, not {_type(record[key])}"
    if unknown := sorted(map(str, record.keys() - _SCHEMA.keys())):
        known = ", ".join(_SCHEMA)
        return f" has unknown keys: {', '.join(unknown)}; the schema has {known}"
    codes, grid = record["codes"], record["grid"]
    if (codes is None) != (grid is None):
        return ": 'codes' and 'grid' come together or not"
    if codes is not None and len(codes) != 2 * math.prod(grid):
        shape = " × ".join(map(str, grid))
        return (
            f": {len(codes)} bytes of codes do not fill a grid of {shape} 16-bit codes"
        )
    return ""


def _place(where: Where) -> str:
    said = where if isinstance(where, str) else where()
    return f"{said}: " if said else ""


def has_image(record: Record) -> bool:
    """Whether a record is of a picture, and not of text alone."""
    return record["width"] > 0


def encode(record: Record) -> bytes:
    """The bytes of a validated record; equal records give equal bytes."""
    checked = validate(record)
    ordered = {key: checked[key] for key in _SCHEMA}
    ordered["questions"] = [
        {key: question[key] for key in Question.__annotations__}
        for question in checked["questions"]
    ]
    return cast(bytes, msgpack.packb(ordered, use_bin_type=True))


def separate(data: bytes) -> tuple[bytes, bytes]:
    """Parts an encoded record into all but its picture, and the picture's bytes.

    In place of the picture stands its length. What is no record comes back as it is.
    """
    value = msgpack.unpackb(data, raw=False)
    if not isinstance(value, dict) or not isinstance(value.get("image"), bytes):
        return data, b""
    picture = value["image"]
    rest = {**value, "image": len(picture)}
    return cast(bytes, msgpack.packb(rest, use_bin_type=True)), picture


def decode(data: bytes, where: Where = "") -> Record:
    """The record of `data`; `where` names its place in messages.

    Raises:
        RecordError: The bytes are no msgpack map of the schema.
    """
    return validate(_unpack(data, where), where)


def decode_outline(data: bytes, where: Where = "") -> tuple[Record, int]:
    """The record without its picture that `separate` gave, and the picture's length.

    Raises:
        RecordError: The bytes are no such record.
    """
    value = _unpack(data, where)
    length = value.get("image") if isinstance(value, dict) else None
    if (
        not isinstance(value, dict)
        or not isinstance(length, int)
        or isinstance(length, bool)
    ):
        raise RecordError(
            f"{_place(where)}{_type(value)} is no record whose picture stands in "
            "another file; prepare the data again"
        )
    record = validate({**value, "image": b""}, where, outline=True)
    if (length > 0) != has_image(record):
        raise RecordError(
            f"{_place(where)}record {record['id']!r} is of {record['width']} pixels "
            f"and its picture of {length} bytes; prepare the data again"
        )
    return record, length


def outline(record: Record) -> Record:
    """A copy of a record without its picture's bytes."""
    return {**record, "image": b""}


def with_image(
    record: Record, picture: bytes, length: int, where: Where = ""
) -> Record:
    """A copy of a record with its picture's bytes.

    Raises:
        RecordError: They are not as many as the record says.
    """
    if len(picture) != length:
        raise RecordError(
            f"{_place(where)}record {record['id']!r} has a picture of {length} bytes, "
            f"but the file of pictures holds {len(picture)} for it; copy the data set "
            "again or prepare the data again"
        )
    return {**record, "image": picture}


def _unpack(data: bytes, where: Where) -> object:
    try:
        return msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(
            f"{_place(where)}{len(data)} bytes are not a record ({error}); the file "
            "was damaged or written by another program: prepare the data again"
        ) from error


def with_codes(record: Record, codes: np.ndarray) -> Record:
    """A copy of `record` that holds the codebook indices `codes`.

    Args:
        record: A record.
        codes: int [h, w], or [h, w, K] of K codebooks.

    Raises:
        RecordError: `codes` are no such array of integers in 0 … 65,535.
    """
    name = f"record {record['id']!r}"
    if codes.ndim not in (2, 3) or not np.issubdtype(codes.dtype, np.integer):
        raise RecordError(
            f"{name}: codes must be an integer matrix [rows, columns], or such a one "
            f"for each codebook, not {codes.dtype} {list(codes.shape)}"
        )
    if codes.size and (codes.min() < 0 or codes.max() > np.iinfo(np.uint16).max):
        raise RecordError(
            f"{name}: codes from {codes.min()} to {codes.max()} do not fit 16 bits"
        )
    copy = record.copy()
    copy["codes"] = codes.astype("<u2").tobytes()
    copy["grid"] = [int(side) for side in codes.shape]
    return copy


def codes_of(record: Record) -> np.ndarray:
    """The codebook indices of a pre-tokenised record, int32 [h, w] or [h, w, K].

    Raises:
        RecordError: The record holds no codes.
    """
    if record["codes"] is None or record["grid"] is None:
        raise RecordError(
            f"record {record['id']!r} holds no codes; pre-tokenise the data set first"
        )
    codes = np.frombuffer(record["codes"], dtype="<u2").astype(np.int32)
    return codes.reshape(record["grid"])


def _type(value: object) -> str:
    text = repr(value)
    shown = text if len(text) <= 40 else text[:37] + "…"
    return f"{type(value).__name__} {shown}"
