"""Decoding with a bound, blending, resizing, and Chameleon's crop."""

import io
import random
import struct
import warnings
import zlib

import crafted
import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import decoding, transforms

WIDE = np.array([0x0000, 0x00FF, 0x0100, 0x1234, 0xFFFF])
HIGH = [0x00, 0x00, 0x01, 0x12, 0xFF]


def _decoded(data, **options):
    return np.asarray(decoding.decode(data, "x", **options))


def _row(data):
    return _decoded(data)[0].tolist()


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
    picture = decoding.decode(examples.picture_bytes(1, kind=kind), "x")
    assert (picture.mode, picture.size) == ("RGBA", (16, 16))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_other_modes_become_rgb(mode):
    file = io.BytesIO()
    Image.new(mode, (3, 2)).save(file, "JPEG" if mode == "CMYK" else "GIF")
    assert decoding.decode(file.getvalue(), "x").mode == "RGB"


@pytest.mark.parametrize("side", [300, 10_000, 12_000, 60_000])
def test_bomb_is_refused_before_decoding(side):
    with pytest.raises(decoding.ImageError, match=r"bomb.png: the picture .* pixels"):
        decoding.decode(_png_header(side, side), "bomb.png", max_pixels=256 * 256)


def test_not_an_image_and_damaged_image(examples):
    for data in (b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg></svg>"):
        with pytest.raises(decoding.ImageError, match=r"a\.png is not an image"):
            decoding.decode(data, "a.png")
    data = examples.picture_bytes(size=64)
    with pytest.raises(decoding.ImageError, match=r"a\.png: the picture is damaged"):
        decoding.decode(data[: len(data) // 2], "a.png")
    with pytest.raises(decoding.ImageError, match="damaged"):
        decoding.decode(_png_header(3, 3), "a.png")


def _big(values, kind="u2"):
    return np.asarray(values).astype(f">{kind}").tobytes()


def _little(values, kind="u2"):
    return np.asarray(values).astype(f"<{kind}").tobytes()


def _wide_files():
    gray = WIDE.astype(np.uint16)[None]
    big = Image.frombytes("I;16B", (5, 1), _big(WIDE))
    little = Image.fromarray(gray)
    return {
        "PNG": crafted.png((5, 1), 16, 0, [_big(WIDE)]),
        "PNG of Pillow": crafted.encoded(little, "PNG"),
        "PNG of Pillow, big": crafted.encoded(big, "PNG"),
        "TIFF": crafted.encoded(little, "TIFF"),
        "TIFF, big": crafted.encoded(big, "TIFF"),
        "TIFF, packed": crafted.encoded(little, "TIFF", compression="tiff_lzw"),
        "TIFF by hand": crafted.tiff(5, 16, 1, _little(WIDE)),
        "TIFF, white is zero": crafted.tiff(5, 16, 0, _little(WIDE ^ 0xFFFF)),
        "TIFF of 32 bits": crafted.encoded(
            Image.fromarray(gray.astype(np.int32)), "TIFF"
        ),
        "PNG in colour": crafted.png((5, 1), 16, 2, [_big(np.repeat(WIDE, 3))]),
    }


@pytest.mark.parametrize("name", _wide_files())
def test_of_sixteen_bits_the_upper_eight_are_kept(name):
    assert _row(_wide_files()[name]) == [[value] * 3 for value in HIGH]


def test_sixteen_bits_with_alpha():
    pixels = np.array([[0x1234, 0xFFFF], [0xFFFF, 0x8000]])
    gray = crafted.png((2, 1), 16, 4, [_big(pixels)])
    color = crafted.png((2, 1), 16, 6, [_big(pixels[:, [0, 0, 0, 1]])])
    for data in (gray, color):
        assert _row(data) == [[18, 18, 18, 255], [255, 255, 255, 128]]


def test_twelve_bits():
    data = crafted.tiff(4, 12, 1, bytes([0x12, 0x3F, 0xFF, 0x80, 0x00, 0x10]))
    assert _row(data) == [[v, v, v] for v in (0x12, 0xFF, 0x80, 0x01)]


@pytest.mark.parametrize(
    ("bits", "kind", "values", "expected"),
    [
        (16, 2, [0, 0x1234, 0x7FFF], [0, 0x12, 0x7F]),
        (16, 2, [0, -5, 0x7FFF], None),
        (32, 1, [0, 5, 255], None),
        (32, 1, [0, 5, 2**31], None),
        (32, 3, [0, 0.25, 1], [0, 64, 255]),
        (32, 3, [0, 0.25, 255], None),
        (32, 3, [0, -0.25, 1], None),
        (32, 3, [0, np.nan, 1], None),
        (32, 3, [0, np.inf, 1], None),
    ],
)
def test_numbers_that_do_not_say_what_white_is(bits, kind, values, expected):
    stored = _little(values, f"{' uif'[kind]}{bits // 8}")
    data = crafted.tiff(3, bits, 1, stored, kind=kind)
    if expected is None:
        with pytest.raises(decoding.ImageError, match=r"the picture .* 8 or 16 bits"):
            decoding.decode(data, "x")
    else:
        assert _row(data) == [[value] * 3 for value in expected]


@pytest.mark.parametrize(
    ("depth", "kind", "row", "clear", "alpha"),
    [
        (1, 0, b"\x50", [1], [255, 0, 255, 0]),
        (1, 0, b"\x50", [0], [0, 255, 0, 255]),
        (2, 0, b"\x1b", [1], [255, 0, 255, 255]),
        (4, 0, b"\x01\x5f", [5], [255, 255, 0, 255]),
        (8, 0, b"\x00\x05\xff\x07", [5], [255, 0, 255, 255]),
        (16, 0, _big([0, 0x0105, 0x0104, 0xFFFF]), [0x0105], [255, 0, 255, 255]),
        (8, 2, bytes([1, 2, 3] * 2 + [9] * 6), [1, 2, 3], [0, 0, 255, 255]),
        (16, 2, _big([0x1234] * 6 + [7] * 6), [0x1234] * 3, [0, 0, 255, 255]),
    ],
)
def test_the_clear_color_of_a_png(depth, kind, row, clear, alpha):
    clear_chunk = crafted.chunk(b"tRNS", _big(clear))
    data = crafted.png((4, 1), depth, kind, [row], clear_chunk)
    assert [pixel[3] for pixel in _row(data)] == alpha


def test_palettes_with_transparency():
    colors = crafted.chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))
    alphas = crafted.chunk(b"tRNS", bytes([0, 128]))
    data = crafted.png((3, 1), 8, 3, [bytes([0, 1, 2])], colors, alphas)
    assert _row(data) == [[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255]]
    one = crafted.png((3, 1), 8, 3, [bytes([0, 1, 2])], colors, alphas[:-6] + b"\xff")
    with pytest.raises(decoding.ImageError, match="x"):
        decoding.decode(one, "x")


def test_a_palette_that_is_missing_is_a_damage():
    data = crafted.png((3, 1), 8, 3, [bytes([0, 1, 2])])
    with pytest.raises(decoding.ImageError, match=r"x: the picture is damaged"):
        decoding.decode(data, "x")


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"],
)
def test_every_mode_of_a_tiff_becomes_rgb_or_rgba(mode):
    picture = Image.new(mode, (3, 2))
    decoded = decoding.decode(crafted.encoded(picture, "TIFF"), "x")
    wanted = "RGBA" if picture.has_transparency_data else "RGB"
    assert (decoded.mode, decoded.size) == (wanted, (3, 2))


def test_cmyk_of_a_jpeg_is_the_right_way_round():
    white = crafted.encoded(Image.new("CMYK", (8, 8)), "JPEG")
    assert _row(white)[0] == [255, 255, 255]
    black = crafted.encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")
    assert _row(black)[0] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_of_several(kind):
    first, second = (Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = crafted.encoded(
        first, kind, save_all=True, append_images=[second], **options
    )
    np.testing.assert_allclose(_row(data)[0][:3], [255, 0, 0], atol=2)


# What stands in the corners of `crafted.corners`, turned as the file asks.
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
UPRIGHT = {
    1: (RED, GREEN, BLUE, WHITE),
    2: (GREEN, RED, WHITE, BLUE),
    3: (WHITE, BLUE, GREEN, RED),
    4: (BLUE, WHITE, RED, GREEN),
    5: (RED, BLUE, GREEN, WHITE),
    6: (BLUE, RED, WHITE, GREEN),
    7: (WHITE, GREEN, BLUE, RED),
    8: (GREEN, WHITE, RED, BLUE),
}


def _corners(picture):
    right, below = picture.width - 1, picture.height - 1
    places = ((0, 0), (right, 0), (0, below), (right, below))
    return tuple(picture.getpixel(place) for place in places)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_ignored_as_released_or_followed(orientation):
    files = [
        crafted.turned(orientation),
        crafted.turned(orientation, "WEBP", lossless=True),
    ]
    for data in files:
        released = decoding.decode(data, "x")
        assert (released.size, _corners(released)) == ((24, 16), UPRIGHT[1])
        upright = decoding.decode(data, "x", policy="upright")
        assert upright.size == ((24, 16) if orientation < 5 else (16, 24))
        assert _corners(upright) == UPRIGHT[orientation]
    jpeg = decoding.decode(crafted.turned(orientation, "JPEG"), "x", policy="upright")
    wanted = np.array(UPRIGHT[orientation])
    assert np.abs(np.array(_corners(jpeg)) - wanted).max() < 40


@pytest.mark.parametrize("policy", ["released", "upright"])
def test_a_tiff_is_turned_once(policy):
    picture = decoding.decode(crafted.turned(6, "TIFF"), "x", policy=policy)
    assert (picture.size, _corners(picture)) == ((16, 24), UPRIGHT[6])


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0garbage that is no header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        # counts and offsets that lead nowhere, and an orientation that is a text
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02\x36\0\0\0\0\0\0\0",
        *(crafted.turned(absurd) for absurd in (0, 9, 255, 65535)),
    ],
)
@pytest.mark.parametrize("filters", ["error", "ignore"])
def test_exif_that_is_damaged_or_absurd_says_nothing(exif, filters):
    is_file = not exif.startswith(b"Exif")
    data = exif if is_file else crafted.encoded(crafted.corners(), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        assert decoding.decode(data, "x", policy="upright").size == (24, 16)


def test_warnings_made_errors_change_nothing():
    data = _png_header(11_000, 9_000)  # more than Pillow warns of, less than it refuses
    for filters in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(filters)
            with pytest.raises(decoding.ImageError, match="11000 × 9000"):
                decoding.decode(data, "x")


def test_composite_shows_the_background_where_clear():
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    pixels = np.asarray(transforms.composite(picture, (1, 2, 3)))
    np.testing.assert_array_equal(pixels, [[[1, 2, 3], [255, 0, 0]]])


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (16, 16), (200, 1)])
def test_square_keeps_the_aspect_ratio(size):
    square = transforms.to_square(Image.new("RGB", size, (9, 9, 9)), 32, (0, 0, 255))
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    inside = (square == 9).all(-1)
    width, height = inside.any(0).sum(), inside.any(1).sum()
    assert max(width, height) == 32
    assert min(width, height) == max(1, round(32 * min(size) / max(size)))
    assert (square[~inside] == (0, 0, 255)).all()


def test_opaque_pictures_are_the_same_without_alpha():
    rng = np.random.default_rng(0)
    for width, height, side in ((90, 61, 32), (17, 40, 64), (1, 300, 8), (2000, 3, 50)):
        noise = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        plain = Image.fromarray(noise)
        clear = plain.convert("RGBA")
        for resample in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
            made, wanted = (
                transforms.to_square(picture, side, (1, 2, 3), resample)
                for picture in (plain, clear)
            )
            np.testing.assert_array_equal(made, wanted)
        covered = transforms.cover(plain, side)
        assert covered.mode == "RGB"
        assert (
            covered.convert("RGBA").tobytes() == transforms.cover(clear, side).tobytes()
        )
        one, two = (
            transforms.random_crop(picture, side, 0.5, np.random.default_rng(1))
            for picture in (plain, clear)
        )
        assert one.convert("RGBA").tobytes() == two.tobytes()


def test_hidden_colors_do_not_bleed():
    picture = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (16, 16, 48, 48))
    square = transforms.to_square(picture, 16)
    assert (square[..., 1] <= square[..., 0]).all()


def test_whiten_truncates():
    picture = Image.new("RGBA", (1, 1), (100, 0, 255, 100))
    expected = [int((1 - 100 / 255) * 255 + 100 / 255 * v) for v in (100, 0, 255)]
    assert transforms.whiten(picture).getpixel((0, 0)) == tuple(expected)
    opaque = Image.new("RGBA", (1, 1), (7, 8, 9, 255))
    assert transforms.whiten(opaque).getpixel((0, 0)) == (7, 8, 9)
    gray = Image.new("L", (1, 1), 5)
    assert transforms.whiten(gray).getpixel((0, 0)) == (5, 5, 5)


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
        crop = transforms.variable_crop(picture, [(512, 512)], rng)
        halved = picture
        if min(size) >= 1024:
            half = (size[0] // 2, size[1] // 2)
            halved = picture.resize(half, Image.Resampling.BOX)
        whole = halved.resize(scaled_size, Image.Resampling.BICUBIC)
        assert crop.tobytes() == whole.crop(box).tobytes()


def test_crop_sizes_of_lumina():
    sizes = transforms.crop_sizes(256, 32)
    assert len(sizes) == 49
    assert (512, 512) in sizes
    assert all(w * h <= 512 * 512 for w, h in sizes)
    picture = Image.new("RGB", (1000, 300))
    crop = transforms.variable_crop(picture, sizes, random.Random(0))
    assert crop.size in sizes
    assert crop.width > 2 * crop.height
