"""Published ways of bringing pictures to one size."""

import numpy as np
import pytest
from PIL import Image

from unitoken_jax.evaluate.feature_networks import preprocessing


def ramp(width, height):
    """Red counts columns, green rows."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


@pytest.mark.parametrize("variant", [*preprocessing.VARIANTS])
@pytest.mark.parametrize("sides", [(40, 30), (33, 70), (16, 16)])
def test_every_variant_gives_its_size(variant, sides):
    found = preprocessing.apply(ramp(*sides), variant, 16)
    expected = (sides[1], sides[0], 3) if variant == "none" else (16, 16, 3)
    assert (found.shape, found.dtype) == (expected, np.uint8)


def test_the_center_is_cut_out_without_resampling():
    found = preprocessing.apply(ramp(21, 17), "center_crop", 8)
    # torchvision rounds half to even: (21 - 8) / 2 = 6.5 begins at 6, 4.5 at 4.
    assert found[0, 0].tolist() == [6, 4, 0]
    assert found[-1, -1].tolist() == [13, 11, 0]
    small = preprocessing.apply(ramp(4, 20), "center_crop", 8)
    assert small[0, :, 0].tolist() == [0, 0, 0, 1, 2, 3, 0, 0]


def test_the_short_side_decides():
    picture = ramp(80, 40)
    found = preprocessing.apply(picture, "short_side", 20)
    whole = np.asarray(picture.resize((40, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found, whole[:, 10:30])
    larger = preprocessing.apply(picture, "unitok_inference", 20)
    whole = np.asarray(picture.resize((44, 22), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(larger, whole[1:21, 12:32])


def test_adm_halves_before_it_interpolates():
    picture = ramp(100, 64)
    halved = picture.resize((50, 32), Image.Resampling.BOX)
    expected = halved.resize((38, 24), Image.Resampling.BICUBIC).crop((7, 0, 31, 24))
    found = preprocessing.apply(picture, "adm", 24)
    np.testing.assert_array_equal(found, expected)


def test_liquid_pads_with_its_gray():
    found = preprocessing.apply(ramp(32, 8), "liquid", 32)
    assert found[0, 0].tolist() == [122, 116, 104]
    assert found[16, 5].tolist() == [5, 4, 0]
