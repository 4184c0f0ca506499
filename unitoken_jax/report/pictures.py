"""Pictures as data URIs, small enough for a page that carries them all."""

import base64
import dataclasses
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

_SIDE = 1024  # longer sides are scaled down
_PIXELS = 64_000_000  # more are not decoded for a report
_PASSED_ON = {"PNG": "image/png", "WEBP": "image/webp", "JPEG": "image/jpeg"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that stands in the page itself."""

    uri: str
    width: int
    height: int


def inline(path: Path) -> Picture | None:
    """Read a picture into a data URI; None if it is missing or not a picture."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > _PIXELS:
                return None
            if max(width, height) <= _SIDE and image.format in _PASSED_ON:
                image.load()  # a cut-off file is found here, not in the browser
                return Picture(
                    _uri(_PASSED_ON[image.format], path.read_bytes()), width, height
                )
            image.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=90)
            return Picture(_uri("image/webp", buffer.getvalue()), *image.size)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
