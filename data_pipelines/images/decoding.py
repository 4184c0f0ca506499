"""Bytes of picture files to pixels, with a bound on memory and a sentence on faults."""

import io
import threading
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from data_pipelines.errors import DataError
from data_pipelines.storage.manifest import Policy
from data_pipelines.storage.records import Record, image_of

# Pictures are decoded whole, so this bounds memory: 4 bytes a pixel, 256 MiB.
MAX_PIXELS = 64 * 1024 * 1024

_FORMATS = ("PNG", "WEBP", "JPEG", "GIF", "BMP", "TIFF")
_PNG_DEPTH = 24  # the byte that says the bits a channel
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Filters of warnings belong to the process: one thread at a time may change them.
_QUIET = threading.Lock()


class ImageError(DataError):
    """Bytes that are not a usable picture; the message names where they came from."""


def decode_image(
    record: Record, image: int = 0, *, policy: Policy = "released"
) -> Image.Image:
    """Decodes one of a record's pictures, the first if no other is asked for.

    Args:
        record: With the bytes of its pictures.
        image: Which of them.
        policy: Of the data set (`Manifest.image_policy`).

    Returns:
        An RGBA picture if any of it is transparent, else RGB.

    Raises:
        ImageError: Its bytes are no usable picture.
        RecordError: The record has no such picture.
    """
    data = image_of(record, image)["bytes"]
    where = f"record {record['id']!r}"
    if len(record["images"]) > 1:
        where += f", image {image}"
    if not data:
        raise ImageError(f"{where} has codes alone and no picture to look at")
    return decode(data, where, policy=policy)


def decode(
    data: bytes,
    where: str,
    max_pixels: int = MAX_PIXELS,
    policy: Policy = "released",
) -> Image.Image:
    """Decodes a picture file, the first frame of an animation.

    Of 16 bits a channel the upper 8 are kept, for grey as for colour.

    Args:
        data: A PNG, WebP, JPEG, GIF, BMP or TIFF file.
        where: The name of the file or record, for messages.
        max_pixels: Larger pictures are refused before they are decompressed.
        policy: Whether EXIF's orientation is ignored or followed; one that is damaged
            or absurd says nothing. Pillow turns TIFF files upright by itself.

    Returns:
        An RGBA picture if any of it is transparent, else RGB.

    Raises:
        ImageError: The bytes are no picture, a damaged one, one too large, or one of
            32 bits a channel that does not say what white is.
    """
    try:
        return _decode(data, where, max_pixels, policy)
    except Warning:  # Pillow's, where a filter makes errors of warnings
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, where, max_pixels, policy)


def orientation(picture: Image.Image) -> int:
    """EXIF's orientation of a loaded picture, 1 to 8; 1 is upright, or nothing said."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation)
    except Warning:
        raise
    except Exception:  # damaged EXIF raises nearly anything, and says nothing
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _decode(data: bytes, where: str, max_pixels: int, policy: Policy) -> Image.Image:
    # On damaged bytes Pillow raises nearly anything, AssertionError and struct.error
    # among them.
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{where}: the picture has far more pixels than the {max_pixels:,} that "
            "are allowed; make it smaller"
        ) from error
    except Warning:
        raise
    except Exception as error:
        raise ImageError(
            f"{where} is not an image ({len(data):,} bytes that are no "
            f"{', '.join(_FORMATS)} file); give a picture in one of these formats"
        ) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            f"{where}: the picture is {width} × {height} = {width * height:,} pixels; "
            f"at most {max_pixels:,} are allowed. Make it smaller"
        )
    try:
        picture.load()
        plain = _eight_bits(picture, data, where)
        turn = _TURNS.get(orientation(picture)) if policy == "upright" else None
        return plain if turn is None else plain.transpose(turn)
    except (Warning, ImageError):
        raise
    except Exception as error:
        reason = str(error) or f"its decoder fails with {type(error).__name__}"
        raise ImageError(
            f"{where}: the picture is damaged ({reason}); replace the file"
        ) from error


def _eight_bits(picture: Image.Image, data: bytes, where: str) -> Image.Image:
    """An RGB or RGBA copy, by the rules of `decode`."""
    if picture.format == "PNG" and "transparency" in picture.info:
        clear = _clear_color(picture.info["transparency"], depth=data[_PNG_DEPTH])
    else:
        clear = None
    if picture.mode[0] in "IF":
        return _from_wide(picture, clear, where)
    if clear is not None:
        picture.info["transparency"] = clear
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    is_opaque = rgba.getchannel("A").getextrema() == (255, 255)
    return rgba.convert("RGB") if is_opaque else rgba


def _clear_color(clear: Any, depth: int) -> Any:
    """The clear colour of a PNG in the 8 bits of Pillow's pixels.

    Pillow leaves it as the file has it. Of 16 bits of grey it stays so, as the pixels
    do; of 16 bits of colour the upper 8 are compared, as only those are kept.
    """
    if isinstance(clear, tuple) and depth == 16:
        return tuple(value >> 8 for value in clear)
    if isinstance(clear, int) and depth in (2, 4):
        most = 2**depth - 1
        return (clear & most) * (255 // most)
    return clear


def _from_wide(picture: Image.Image, clear: int | None, where: str) -> Image.Image:
    """Grey of 16 bits or more in 8 bits a channel, RGB or RGBA."""
    tags = getattr(picture, "tag_v2", {})
    values = np.asarray(picture if picture.mode == "F" else picture.convert("I"))
    if picture.mode == "F":
        gray = _from_floats(values, where)
    elif picture.mode == "I":
        gray = _from_integers(values, where)
    else:
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        gray = values >> (bits - 8)
    gray = gray.astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        gray = 255 - gray  # zero is white, which Pillow heeds for 8 bits only
    is_clear = values == (-1 if clear is None else clear)
    if not is_clear.any():
        return Image.fromarray(gray).convert("RGB")
    alpha = np.where(is_clear, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([gray, gray, gray, alpha], -1))


def _from_integers(values: np.ndarray, where: str) -> np.ndarray:
    """Integers of 32 bits that can only have been 16."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or most >= 2**16 or 0 < most < 2**8:
        raise ImageError(
            f"{where}: the picture has 32 bits a channel with values from {least} to "
            f"{most}, which does not say how bright white is; convert it to 8 or 16 "
            "bits"
        )
    return values >> 8


def _from_floats(values: np.ndarray, where: str) -> np.ndarray:
    """Floating point of which 1 is white."""
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ImageError(
            f"{where}: the picture is of floating point that is not all from 0, black, "
            "to 1, white; convert it to 8 or 16 bits"
        )
    return np.rint(values * 255)
