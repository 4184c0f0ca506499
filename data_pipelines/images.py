"""Pictures: decoding with a bound, blending over a background, resizing, cropping.

`whiten` and `variable_crop` are Chameleon's preparation of pictures for its VQGAN, as
Lumina-mGPT and UniToken use it, bit for bit.
"""

import io
import random
import threading
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from data_pipelines.errors import DataError

WHITE = (255, 255, 255)
# Pictures are decoded whole, so this bounds memory: 4 bytes a pixel, 256 MiB.
MAX_PIXELS = 64 * 1024 * 1024
# How EXIF's orientation is read: not at all, as the published loaders have it, or so
# that the picture stands upright. Pillow turns TIFF files upright by itself.
Policy = Literal["released", "upright"]

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


class PictureError(DataError):
    """Bytes that are not a usable picture; the message names where they came from."""


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
            or absurd says nothing.

    Returns:
        An RGBA picture if any of it is transparent, else RGB.

    Raises:
        PictureError: The bytes are no picture, a damaged one, one too large, or one of
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
        raise PictureError(
            f"{where}: the picture has far more pixels than the {max_pixels:,} that "
            "are allowed; make it smaller"
        ) from error
    except Warning:
        raise
    except Exception as error:
        raise PictureError(
            f"{where} is not an image ({len(data):,} bytes that are no "
            f"{', '.join(_FORMATS)} file); give a picture in one of these formats"
        ) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise PictureError(
            f"{where}: the picture is {width} × {height} = {width * height:,} pixels; "
            f"at most {max_pixels:,} are allowed. Make it smaller"
        )
    try:
        picture.load()
        plain = _eight_bits(picture, data, where)
        turn = _TURNS.get(orientation(picture)) if policy == "upright" else None
        return plain if turn is None else plain.transpose(turn)
    except (Warning, PictureError):
        raise
    except Exception as error:
        reason = str(error) or f"its decoder fails with {type(error).__name__}"
        raise PictureError(
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
        grey = _from_floats(values, where)
    elif picture.mode == "I":
        grey = _from_integers(values, where)
    else:
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        grey = values >> (bits - 8)
    grey = grey.astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        grey = 255 - grey  # zero is white, which Pillow heeds for 8 bits only
    is_clear = values == (-1 if clear is None else clear)
    if not is_clear.any():
        return Image.fromarray(grey).convert("RGB")
    alpha = np.where(is_clear, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([grey, grey, grey, alpha], -1))


def _from_integers(values: np.ndarray, where: str) -> np.ndarray:
    """Integers of 32 bits that can only have been 16."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or most >= 2**16 or 0 < most < 2**8:
        raise PictureError(
            f"{where}: the picture has 32 bits a channel with values from {least} to "
            f"{most}, which does not say how bright white is; convert it to 8 or 16 "
            "bits"
        )
    return values >> 8


def _from_floats(values: np.ndarray, where: str) -> np.ndarray:
    """Floating point of which 1 is white."""
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise PictureError(
            f"{where}: the picture is of floating point that is not all from 0, black, "
            "to 1, white; convert it to 8 or 16 bits"
        )
    return np.rint(values * 255)


def composite(
    picture: Image.Image, background: tuple[int, int, int] = WHITE
) -> Image.Image:
    """Blends a picture over a plain background, giving RGB."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")


def to_square(
    picture: Image.Image,
    size: int,
    background: tuple[int, int, int] = WHITE,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Fits a whole picture into a square, centred on a plain background.

    Returns:
        uint8 [size, size, 3].
    """
    fitted = fit(picture, size, resample)
    corner = ((size - fitted.width) // 2, (size - fitted.height) // 2)
    if fitted.mode == "RGB":
        plain = Image.new("RGB", (size, size), background)
        plain.paste(fitted, corner)
        return np.asarray(plain)
    canvas = Image.new("RGBA", (size, size), (*background, 255))
    canvas.alpha_composite(fitted, corner)
    return np.asarray(canvas.convert("RGB"))


def fit(
    picture: Image.Image,
    size: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Scales a copy, RGBA if it has any transparency, so that its longer side fits."""
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    copy = _copy(picture)
    return (
        copy if copy.size == (width, height) else copy.resize((width, height), resample)
    )


def cover(picture: Image.Image, size: int) -> Image.Image:
    """Scales a copy, as `fit` does, until its shorter side is `size`; never up."""
    scale = size / min(picture.size)
    copy = _copy(picture)
    if scale >= 1:
        return copy
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return copy.resize((width, height), Image.Resampling.BICUBIC)


def _copy(picture: Image.Image) -> Image.Image:
    """RGBA, which Pillow resizes with premultiplied alpha, or RGB where it is opaque.

    Both give the same pixels of an opaque picture; RGB takes half the time.
    """
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def random_crop(
    picture: Image.Image, size: int, least: float, rng: np.random.Generator
) -> Image.Image:
    """Cuts out a random part and resizes it to a square, as torchvision does.

    Args:
        picture: any picture.
        size: side of the result in pixels.
        least: share of the area, the least that is kept.
        rng: gives share, ratio of the sides (3 : 4 to 4 : 3, even in its logarithm)
            and place.
    """
    for _ in range(10):
        area = picture.width * picture.height * rng.uniform(least, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < width <= picture.width and 0 < height <= picture.height:
            left = int(rng.integers(picture.width - width + 1))
            upper = int(rng.integers(picture.height - height + 1))
            break
    else:  # a long picture: the middle, with the nearest ratio there is
        ratio = min(max(picture.width / picture.height, 3 / 4), 4 / 3)
        width = min(picture.width, round(picture.height * ratio))
        height = min(picture.height, round(picture.width / ratio))
        left, upper = (picture.width - width) // 2, (picture.height - height) // 2
    box = (left, upper, left + width, upper + height)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def whiten(picture: Image.Image) -> Image.Image:
    """Blends over white as Chameleon does: in float64, truncated to uint8."""
    if picture.mode == "RGB":
        return picture
    values = np.asarray(picture.convert("RGBA"))
    if (values[..., 3] == 255).all():
        return picture.convert("RGB")
    alpha = values[..., 3:] / 255.0
    blended = (1 - alpha) * 255 + alpha * values[..., :3]
    return Image.fromarray(blended.astype(np.uint8), "RGB")


def crop_sizes(
    patches: int, patch: int, max_ratio: float = 4.0
) -> list[tuple[int, int]]:
    """Lumina-mGPT's list of (width, height) of at most `patches` square patches.

    Args:
        patches: Largest number of patches of one picture (256 for 512 × 512).
        patch: Side of a patch in pixels (32).
        max_ratio: Largest ratio of the sides.
    """
    sizes = []
    wide, high = patches, 1
    while wide > 0:
        if max(wide, high) / min(wide, high) <= max_ratio:
            sizes.append((wide * patch, high * patch))
        if (high + 1) * wide <= patches:
            high += 1
        else:
            wide -= 1
    return sizes


def variable_crop(
    picture: Image.Image,
    sizes: Sequence[tuple[int, int]],
    rng: random.Random,
    top: int = 1,
) -> Image.Image:
    """Chameleon's crop: the closest aspect ratio of `sizes`, at a random place.

    UniToken passes one size, (512, 512). The published function is called a centre
    crop but draws the place from Python's generator, which it seeds with 100.

    Args:
        picture: Any picture.
        sizes: Allowed (width, height) in pixels.
        rng: Gives the choice among the `top` best sizes and the place of the crop.
        top: How many of the best sizes are drawn from.

    Returns:
        A picture of one of `sizes`.
    """
    width, height = picture.size
    kept = [
        (min(w / width, h / height) / max(w / width, h / height), (w, h))
        for w, h in sizes
    ]
    _, size = rng.choice(sorted(kept, reverse=True)[:top])
    scaled = _scale_to_cover(picture, size)
    return scaled.crop(_crop_box(scaled.size, size, rng))


def _scale_to_cover(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    while all(have >= 2 * want for have, want in zip(picture.size, size, strict=True)):
        halved = (picture.width // 2, picture.height // 2)
        picture = picture.resize(halved, Image.Resampling.BOX)
    scale = max(size[0] / picture.width, size[1] / picture.height)
    target = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(target, Image.Resampling.BICUBIC)


def _crop_box(
    scaled: tuple[int, int], size: tuple[int, int], rng: random.Random
) -> tuple[int, int, int, int]:
    left = rng.randint(0, scaled[0] - size[0])
    upper = rng.randint(0, scaled[1] - size[1])
    return left, upper, left + size[0], upper + size[1]
