"""Names of colours, and painting in them."""

import numpy as np
import pytest

from data_pipelines.prepare.colors import (
    NAMES,
    PAINTS,
    color_shares,
    repaint,
    single_color,
)


def _plain(color, alpha=255):
    return np.full((4, 4, 4), (*color, alpha), np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_paints_have_their_names_even_when_shifted(name):
    for shift in (-10, 0, 10):
        color = np.clip(np.array(PAINTS[name]) + shift, 0, 255)
        assert single_color(_plain(color), 1.0) == name


def test_shares_count_what_is_opaque():
    pixels = np.concatenate([_plain((255, 0, 0)), _plain((0, 0, 255), alpha=85)])
    assert color_shares(pixels) == pytest.approx({"red": 0.75, "blue": 0.25})
    assert single_color(pixels, 0.7) == "red"
    assert single_color(pixels, 0.8) is None
    assert color_shares(_plain((1, 2, 3), alpha=0)) == {}
    assert single_color(_plain((1, 2, 3), alpha=0), 0.1) is None


def test_skin_has_no_color_name():
    assert single_color(_plain((250, 220, 190)), 0.5) is None


@pytest.mark.parametrize("name", NAMES)
def test_repainting_gives_the_color_and_keeps_the_shape(pictures, name):
    heart = next(p for p in pictures if p.annotation["caption"] == "red heart")
    pixels = np.asarray(heart.pixels.convert("RGBA"))
    painted = repaint(pixels, PAINTS[name])
    assert single_color(painted, 0.8) == name
    np.testing.assert_array_equal(painted[..., 3], pixels[..., 3])
