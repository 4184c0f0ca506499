"""Decoded pictures: blending over a background, resizing, cropping.

`whiten` and `variable_crop` are Chameleon's preparation of pictures for its VQGAN, as
Lumina-mGPT and UniToken use it, bit for bit.
"""

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

WHITE = (255, 255, 255)


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
