"""The header of a safetensors file: names, shapes, types and places, all checked.

The format is 8 bytes of length, JSON, and the numbers without gaps. The library checks
as much when it opens a file; done here, every fault has its sentence, and no foreign
code meets a damaged file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from unitoken_jax.convert.files import recognize
from unitoken_jax.convert.tensors import Spec, WeightsError

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
_LONGEST = 100_000_000  # bytes of a header, as the library has it


class Entry(NamedTuple):
    """One tensor of a file."""

    spec: Spec
    offset: int  # in the file


class Header(NamedTuple):
    """What a file says of itself."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        WeightsError: it cannot be read, is another kind of file, cut off or damaged.
    """
    head = recognize.look(path)
    # The length of a header may begin as a pickle does; its JSON is no part of one.
    if head[8:9] != b"{" and head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        raise WeightsError(
            f"{path} is a PyTorch file and not safetensors; rename it to end in .pth"
        )
    with recognize.reading(path), path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_LONGEST, size - 8):
            raise _damaged(
                path, f"its header would be {length:,} bytes of the file's {size:,}"
            )
        text = file.read(length)
    try:
        content = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise _damaged(path, f"its header is no JSON: {fault}") from fault
    if not isinstance(content, dict):
        raise _damaged(path, "its header is no JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _damaged(path, "its metadata are no texts by name")
    begin = 8 + length
    entries, places = {}, []
    for key, entry in content.items():
        spec, first, last = _entry(path, key, entry)
        entries[key] = Entry(spec, begin + first)
        places.append((first, last, key))
    _check_places(path, places, size - begin)
    return Header(entries, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r} twice")
    return content


def _entry(path: Path, key: str, entry: Any) -> tuple[Spec, int, int]:
    """Shape and type of a tensor, and where its numbers begin and end."""
    if not isinstance(entry, Mapping):
        raise _damaged(path, f"{key} is not described")
    dtype = entry.get("dtype")
    shape, places = _wholes(entry.get("shape")), _wholes(entry.get("data_offsets"))
    if shape is None or places is None or len(places) != 2:
        raise _damaged(path, f"{key} has no shape or place")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(
            f"{path}: {key} has the type {dtype!r}, which is not supported; known are"
            f" {', '.join(DTYPES)}"
        )
    spec = Spec(shape, DTYPES[dtype])
    if places[1] - places[0] != math.prod(shape) * spec.dtype.itemsize:
        raise _damaged(
            path, f"{key} of {dtype} and shape {spec.shape} has another number of bytes"
        )
    return spec, places[0], places[1]


def _wholes(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers from 0; None if it is something else."""
    if not isinstance(value, list):
        return None
    fit = all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if fit else None


def _check_places(path: Path, places: list[tuple[int, int, str]], size: int) -> None:
    """Refuse tensors that overlap, leave gaps or go beyond the file."""
    end = 0
    for first, last, key in sorted(places):
        if first != end:
            what = (
                "overlaps the one before" if first < end else "leaves a gap before it"
            )
            raise _damaged(path, f"{key} {what}")
        end = last
    if end != size:
        raise _damaged(
            path, f"it has {size:,} bytes of numbers and its header says {end:,}"
        )


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path} is not a complete safetensors file ({why}); it was cut off or damaged,"
        " download it again"
    )
