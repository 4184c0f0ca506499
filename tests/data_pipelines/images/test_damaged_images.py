"""Whatever the bytes, `decode` gives a picture or says what is wrong with it."""

import contextlib
import warnings

import crafted
import hypothesis
import numpy as np
import pytest
from damage import DAMAGES, damaged
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.images import decoding, transforms

MAX_PIXELS = 10**6


def _files():
    """Small files of every format, in the kinds that have their own code."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 25, 4)).astype(np.uint8)
    clear = Image.fromarray(noise)
    plain = clear.convert("RGB")
    wide = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    several = {"save_all": True, "append_images": [plain.rotate(180)]}
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    kinds = {
        "PNG": [
            (clear, {"exif": exif}),
            (plain.quantize(16), {"transparency": 3}),
            (wide, {}),
            (plain, several),
        ],
        "JPEG": [
            (plain, {"exif": exif}),
            (plain, {"progressive": True}),
            (plain.convert("CMYK"), {}),
        ],
        "MPO": [(plain, several)],
        "WEBP": [(plain, {"exif": exif}), (clear, {"lossless": True})],
        "GIF": [(clear, {}), (plain, several)],
        "TIFF": [
            (plain, {"exif": exif}),
            (clear, {"compression": "tiff_lzw"}),
            (plain, {"compression": "jpeg"}),
            (plain.convert("1"), {"compression": "group4"}),
            (wide, {}),
            (plain.convert("F"), {}),
        ],
        "BMP": [(plain, {}), (plain.quantize(16), {})],
    }
    return {
        kind: [crafted.encoded(p, kind, **options) for p, options in chosen]
        for kind, chosen in kinds.items()
    }


FILES = _files()


def _try(kind, place, damages, mended_sums, policy):
    file = FILES[kind][place % len(FILES[kind])]
    data = damaged(file, damages, mended_sums=mended_sums)
    with contextlib.suppress(decoding.ImageError):
        picture = decoding.decode(data, "a.bin", MAX_PIXELS, policy)
        assert picture.mode in ("RGB", "RGBA")
        assert 0 < picture.width * picture.height <= MAX_PIXELS
        assert transforms.to_square(picture, 16).shape == (16, 16, 3)


_ARGUMENTS = {
    "place": st.integers(0, 5),
    "damages": DAMAGES,
    "mended_sums": st.booleans(),
    "policy": st.sampled_from(["released", "upright"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_picture_or_a_sentence(kind):
    @hypothesis.settings(max_examples=60, deadline=None, database=None)
    @hypothesis.given(**_ARGUMENTS)
    def check(place, damages, mended_sums, policy):
        _try(kind, place, damages, mended_sums, policy)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("filters", ["error", "ignore"])
@pytest.mark.parametrize("kind", FILES)
def test_a_picture_or_a_sentence_often(kind, filters):
    @hypothesis.settings(max_examples=3000, deadline=None, database=None)
    @hypothesis.given(**_ARGUMENTS)
    def check(place, damages, mended_sums, policy):
        with warnings.catch_warnings():
            warnings.simplefilter(filters)
            _try(kind, place, damages, mended_sums, policy)

    check()


@hypothesis.settings(max_examples=200, deadline=None, database=None)
@hypothesis.given(
    st.sampled_from([f[0][:size] for f in FILES.values() for size in (2, 4, 8, 16)]),
    st.binary(max_size=200),
)
def test_beginnings_of_files_with_anything_behind(beginning, rest):
    with contextlib.suppress(decoding.ImageError):
        decoding.decode(beginning + rest, "a.bin", MAX_PIXELS)
