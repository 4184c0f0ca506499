"""Images as data URIs, small enough for a page that carries them all."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from unitoken_jax.report import quantities

_SIDE = 1024  # longer sides are scaled down
_PIXELS = 64_000_000  # more are not decoded for a report
_PASSED_ON = {"PNG": "image/png", "WEBP": "image/webp", "JPEG": "image/jpeg"}


@dataclasses.dataclass(frozen=True)
class InlineImage:
    """An image that stands in the page itself."""

    uri: str
    width: int
    height: int


def inline(path: Path) -> InlineImage | None:
    """Read an image into a data URI; None if it is missing or no image."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > _PIXELS:
                return None
            if max(width, height) <= _SIDE and image.format in _PASSED_ON:
                image.load()  # a cut-off file is found here, not in the browser
                return InlineImage(
                    _uri(_PASSED_ON[image.format], path.read_bytes()), width, height
                )
            image.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=90)
            return InlineImage(_uri("image/webp", buffer.getvalue()), *image.size)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def sheets(paths: Sequence[Path]) -> list[tuple[str, InlineImage]]:
    """Take the first and the newest sheet of each kind: NAME-STEP.png.

    Args:
        paths: sheets of a stage in the order of their names.

    Returns:
        Titles and images, without those that cannot be read.
    """
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(path.stem.rpartition("-")[0], []).append(path)
    chosen = [path for same in kinds.values() for path in {same[0], same[-1]}]
    found = [(path, inline(path)) for path in sorted(chosen)]
    return [(_sheet_title(path), image) for path, image in found if image]


def _sheet_title(path: Path) -> str:
    name, _, step = path.stem.rpartition("-")
    if not (name and step.isdigit()):
        return path.stem
    return f"{quantities.title(name)}, step {quantities.number(int(step))}"


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
