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
_LIQUID_GRAY = (122, 116, 104)
_LARGER = 1.125  # of the short side, before UniTok's inference crops


def _none(image: Image.Image, size: int) -> Image.Image:
    del size
    return image


def _stretch(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), _BICUBIC)


def _center_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre, as torchvision's CenterCrop; what a small picture lacks is black."""
    width, height = image.size
    if min(width, height) < size:
        canvas = Image.new("RGB", (max(width, size), max(height, size)))
        corner = ((canvas.width - width) // 2, (canvas.height - height) // 2)
        canvas.paste(image, corner)
        image, (width, height) = canvas, canvas.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _short_side(
    image: Image.Image,
    size: int,
    scale: float = 1.0,
    resample: Image.Resampling = _BICUBIC,
) -> Image.Image:
    """The short side to `scale` · size (torchvision's Resize), then the centre."""
    short = int(size * scale)
    width, height = image.size
    if width <= height:
        sides = short, int(short * height / width)
    else:
        sides = int(short * width / height), short
    return _center_crop(image.resize(sides, resample), size)


def _adm(image: Image.Image, size: int) -> Image.Image:
    """ADM's: halved by averaging while twice too large, then bicubic, then the centre.

    arXiv 2105.05233; LlamaGen takes its codes from such pictures.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), _BOX)
    scale = size / min(image.size)
    sides = round(image.width * scale), round(image.height * scale)
    image = image.resize(sides, _BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _pad_square(image: Image.Image, size: int) -> Image.Image:
    """Liquid's: padded to a square with grey, then bilinear."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), _LIQUID_GRAY)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.resize((size, size), _BILINEAR)


VARIANTS: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {
    "none": _none,
    "stretch": _stretch,
    "center_crop": _center_crop,
    "short_side": _short_side,
    "unitok_inference": partial(_short_side, scale=_LARGER, resample=_BILINEAR),
    "unitok_visualizer": partial(_short_side, scale=_LARGER, resample=_LANCZOS),
    "adm": _adm,
    "liquid": _pad_square,
}
"""By name: `center_crop` is that of UniTok's rFID, `short_side` that of its zero-shot
classification, `unitok_inference` and `unitok_visualizer` those of its demonstrations,
`adm` LlamaGen's, `liquid` that of Liquid's questions."""


def apply(image: Image.Image, variant: str, size: int) -> np.ndarray:
    """Bring a picture to a size.

    Args:
        image: RGB.
        variant: A name of `VARIANTS`.
        size: Side of the square in pixels; `none` does not look at it.

    Returns:
        uint8 [H, W, 3].
    """
    return np.asarray(VARIANTS[variant](image, size))
