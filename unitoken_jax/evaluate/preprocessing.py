"""How pictures are brought to one size before they are measured: published variants.

Each name stands for one published way; all are Pillow's arithmetic on 8-bit pixels, as
the published code's. `none` leaves pictures as they are.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image

_BICUBIC = Image.Resampling.BICUBIC
_BILINEAR = Image.Resampling.BILINEAR
_LANCZOS = Image.Resampling.LANCZOS
_BOX = Image.Resampling.BOX
_LIQUID_GREY = (122, 116, 104)
_LARGER = 1.125  # of the short side, before UniTok's inference crops


def _none(picture: Image.Image, size: int) -> Image.Image:
    del size
    return picture


def _stretch(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), _BICUBIC)


def _centre_crop(picture: Image.Image, size: int) -> Image.Image:
    """The centre, as torchvision's CenterCrop; what a small picture lacks is black."""
    width, height = picture.size
    if min(width, height) < size:
        canvas = Image.new("RGB", (max(width, size), max(height, size)))
        corner = ((canvas.width - width) // 2, (canvas.height - height) // 2)
        canvas.paste(picture, corner)
        picture, (width, height) = canvas, canvas.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _short_side(
    picture: Image.Image,
    size: int,
    scale: float = 1.0,
    resample: Image.Resampling = _BICUBIC,
) -> Image.Image:
    """The short side to `scale` · size (torchvision's Resize), then the centre."""
    short = int(size * scale)
    width, height = picture.size
    if width <= height:
        sides = short, int(short * height / width)
    else:
        sides = int(short * width / height), short
    return _centre_crop(picture.resize(sides, resample), size)


def _adm(picture: Image.Image, size: int) -> Image.Image:
    """ADM's: halved by averaging while twice too large, then bicubic, then the centre.

    arXiv 2105.05233; LlamaGen takes its codes from such pictures.
    """
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), _BOX)
    scale = size / min(picture.size)
    sides = round(picture.width * scale), round(picture.height * scale)
    picture = picture.resize(sides, _BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _pad_square(picture: Image.Image, size: int) -> Image.Image:
    """Liquid's: padded to a square with grey, then bilinear."""
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), _LIQUID_GREY)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas.resize((size, size), _BILINEAR)


VARIANTS: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {
    "none": _none,
    "stretch": _stretch,
    "centre_crop": _centre_crop,
    "short_side": _short_side,
    "unitok_inference": partial(_short_side, scale=_LARGER, resample=_BILINEAR),
    "unitok_visualiser": partial(_short_side, scale=_LARGER, resample=_LANCZOS),
    "adm": _adm,
    "liquid": _pad_square,
}
"""By name: `centre_crop` is that of UniTok's rFID, `short_side` that of its zero-shot
classification, `unitok_inference` and `unitok_visualiser` those of its demonstrations,
`adm` LlamaGen's, `liquid` that of Liquid's questions."""


def apply(picture: Image.Image, variant: str, size: int) -> np.ndarray:
    """Bring a picture to a size.

    Args:
        picture: RGB.
        variant: A name of `VARIANTS`.
        size: Side of the square in pixels; `none` does not look at it.

    Returns:
        uint8 [H, W, 3].
    """
    return np.asarray(VARIANTS[variant](picture, size))
