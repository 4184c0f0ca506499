"""Decoding with a bound, blending, resizing, and Chameleon's crop."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines import images


def _png_header(width, height):
    """A PNG that claims a size and holds no pixels, as a decompression bomb would."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_decodes_with_alpha(examples, kind):
    picture = images.decode(examples.picture_bytes(1, kind=kind), "x")
    assert (picture.mode, picture.size) == ("RGBA", (16, 16))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_other_modes_become_rgb(mode):
    file = io.BytesIO()
    Image.new(mode, (3, 2)).save(file, "JPEG" if mode == "CMYK" else "GIF")
    assert images.decode(file.getvalue(), "x").mode == "RGB"


@pytest.mark.parametrize("side", [300, 10_000, 12_000, 60_000])
def test_bomb_is_refused_before_decoding(side):
    with pytest.raises(images.PictureError, match=r"bomb.png: the picture .* pixels"):
        images.decode(_png_header(side, side), "bomb.png", max_pixels=256 * 256)


def test_not_an_image_and_damaged_image(examples):
    for data in (b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg></svg>"):
        with pytest.raises(images.PictureError, match=r"a\.png is not an image"):
            images.decode(data, "a.png")
    data = examples.picture_bytes(size=64)
    with pytest.raises(images.PictureError, match=r"a\.png: the picture is damaged"):
        images.decode(data[: len(data) // 2], "a.png")
    with pytest.raises(images.PictureError, match="damaged"):
        images.decode(_png_header(3, 3), "a.png")


def test_composite_shows_the_background_where_clear():
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    pixels = np.asarray(images.composite(picture, (1, 2, 3)))
    np.testing.assert_array_equal(pixels, [[[1, 2, 3], [255, 0, 0]]])


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (16, 16), (200, 1)])
def test_square_keeps_the_aspect_ratio(size):
    square = images.to_square(Image.new("RGB", size, (9, 9, 9)), 32, (0, 0, 255))
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    inside = (square == 9).all(-1)
    width, height = inside.any(0).sum(), inside.any(1).sum()
    assert max(width, height) == 32
    assert min(width, height) == max(1, round(32 * min(size) / max(size)))
    assert (square[~inside] == (0, 0, 255)).all()


def test_hidden_colours_do_not_bleed():
    picture = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (16, 16, 48, 48))
    square = images.to_square(picture, 16)
    assert (square[..., 1] <= square[..., 0]).all()


def test_whiten_truncates():
    picture = Image.new("RGBA", (1, 1), (100, 0, 255, 100))
    expected = [int((1 - 100 / 255) * 255 + 100 / 255 * v) for v in (100, 0, 255)]
    assert images.whiten(picture).getpixel((0, 0)) == tuple(expected)
    opaque = Image.new("RGBA", (1, 1), (7, 8, 9, 255))
    assert images.whiten(opaque).getpixel((0, 0)) == (7, 8, 9)
    grey = Image.new("L", (1, 1), 5)
    assert images.whiten(grey).getpixel((0, 0)) == (5, 5, 5)


def test_crop_places_of_the_published_code():
    """Boxes printed by UniToken's own code after seeding 100."""
    rng = random.Random(100)
    expected = {
        (800, 600): ((683, 512), (117, 0, 629, 512)),
        (600, 800): ((512, 683), (0, 89, 512, 601)),
        (512, 512): ((512, 512), (0, 0, 512, 512)),
        (1500, 1100): ((698, 512), (116, 0, 628, 512)),
        (2048, 1024): ((1024, 512), (209, 0, 721, 512)),
        (300, 200): ((768, 512), (158, 0, 670, 512)),
    }
    for size, (scaled_size, box) in expected.items():
        x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        pixels = np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)
        picture = Image.fromarray(pixels)
        crop = images.variable_crop(picture, [(512, 512)], rng)
        halved = picture
        if min(size) >= 1024:
            half = (size[0] // 2, size[1] // 2)
            halved = picture.resize(half, Image.Resampling.BOX)
        whole = halved.resize(scaled_size, Image.Resampling.BICUBIC)
        assert crop.tobytes() == whole.crop(box).tobytes()


def test_crop_sizes_of_lumina():
    sizes = images.crop_sizes(256, 32)
    assert len(sizes) == 49
    assert (512, 512) in sizes
    assert all(w * h <= 512 * 512 for w, h in sizes)
    picture = Image.new("RGB", (1000, 300))
    crop = images.variable_crop(picture, sizes, random.Random(0))
    assert crop.size in sizes
    assert crop.width > 2 * crop.height
