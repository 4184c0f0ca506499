"""AnyRes against the published vectors and the published code's tiles."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from data_pipelines.images import anyres
from data_pipelines.images.anyres import UNITOKEN_GRIDS, ViewsConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "unitoken_anyres_tiny"
UNITOKEN = ViewsConfig(grids=UNITOKEN_GRIDS)
BASE = ViewsConfig()

# sizes; grid (columns, rows); resized; corner; kept (rows, columns); length
VECTORS = [
    (
        [(512, 512), (700, 700), (769, 769)],
        ((2, 2), (768, 768), (0, 0), (54, 54), 3699),
    ),
    (
        [(384, 384), (336, 336), (256, 256), (100, 100), (64, 64), (1, 1)],
        ((1, 2), (384, 384), (0, 192), (28, 27), 1513),
    ),
    (
        [(640, 480), (800, 600), (1024, 768)],
        ((2, 2), (768, 576), (0, 96), (40, 54), 2929),
    ),
    ([(480, 640)], ((2, 2), (576, 768), (96, 0), (54, 40), 2943)),
    ([(1920, 1080)], ((2, 2), (768, 432), (0, 168), (30, 54), 2379)),
    ([(1080, 1920)], ((2, 2), (432, 768), (168, 0), (54, 30), 2403)),
    ([(768, 384), (1000, 500)], ((2, 1), (768, 384), (0, 0), (27, 54), 2214)),
    ([(384, 768)], ((1, 2), (384, 768), (0, 0), (54, 27), 2241)),
    ([(1152, 384), (1200, 400)], ((3, 1), (1152, 384), (0, 0), (27, 81), 2943)),
    ([(300, 900)], ((1, 3), (384, 1152), (0, 0), (81, 27), 2997)),
    ([(500, 333)], ((2, 1), (577, 384), (95, 0), (27, 40), 1836)),
    ([(2000, 300)], ((3, 1), (1152, 173), (0, 105), (13, 81), 1795)),
    ([(300, 2000)], ((1, 3), (173, 1152), (105, 0), (81, 13), 1863)),
    ([(1333, 800)], ((2, 2), (768, 461), (0, 153), (32, 54), 2489)),
    ([(3000, 2000), (600, 400)], ((2, 2), (768, 512), (0, 128), (36, 54), 2709)),
    ([(50, 500)], ((1, 2), (77, 768), (153, 0), (54, 5), 1053)),
]
CASES = [(size, expected) for sizes, expected in VECTORS for size in sizes]


@pytest.mark.parametrize(("size", "expected"), CASES, ids=lambda v: str(v)[:12])
def test_published_vectors(size, expected):
    grid, resized, corner, kept, length = expected
    assert anyres.choose_grid(*size, UNITOKEN) == grid
    rows, columns = anyres.kept_features(*size, grid, UNITOKEN)
    assert (rows.stop - rows.start, columns.stop - columns.start) == kept
    assert anyres.continuous_length(*size, UNITOKEN) == length
    slots = anyres.feature_indices(*size, UNITOKEN)
    assert len(slots) == length
    assert np.count_nonzero(slots == anyres.NEWLINE) == kept[0]
    # The white picture lies on black: its box is what was resized and where it went.
    canvas = np.asarray(
        anyres._pad(Image.new("RGB", size, "white"), grid[0] * 384, grid[1] * 384)
    )
    ys, xs = np.nonzero(canvas[..., 0])
    assert (xs.min(), ys.min()) == corner
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == resized


@pytest.mark.parametrize("index", range(4))
def test_tiles_equal_the_published_code_bit_for_bit(index):
    config = json.loads(GOLDEN.with_suffix(".json").read_text())
    golden = load_file(GOLDEN.with_suffix(".activations.safetensors"))
    views = ViewsConfig(config["vit_image"], 14, UNITOKEN_GRIDS)
    image = Image.fromarray(golden[f"raw.{index}"])
    pixels = anyres.cut_views(image, views)  # [M, H, W, 3]
    assert len(pixels) == anyres.count_views(image.width, image.height, views)
    scaled = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    scaled = (scaled - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(
        scaled.transpose(0, 3, 1, 2), golden[f"pixels.{index}"]
    )


def test_base_variant_is_one_squashed_view():
    image = Image.linear_gradient("L").convert("RGB").resize((300, 200))
    views = ViewsConfig(size=32, patch=8)
    pixels = anyres.cut_views(image, views)
    np.testing.assert_array_equal(
        pixels, np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))[None]
    )
    assert anyres.count_views(300, 200, views) == 1
    np.testing.assert_array_equal(
        anyres.feature_indices(300, 200, views), np.arange(16)
    )
    assert BASE.features == anyres.continuous_length(1, 9, BASE) == 729


sides = st.integers(1, 4000)


@settings(deadline=None)
@given(sides, sides)
def test_blocks_index_every_kept_feature_once(width, height):
    views = ViewsConfig(56, 14, UNITOKEN_GRIDS)
    slots = anyres.feature_indices(width, height, views)
    assert len(slots) == anyres.continuous_length(width, height, views)
    features = slots[slots != anyres.NEWLINE]
    assert len(np.unique(features)) == len(features)
    assert features.max() < anyres.count_views(width, height, views) * views.features
    np.testing.assert_array_equal(slots[: views.features], np.arange(views.features))


def test_mosaic_rows_run_through_neighboring_tiles():
    views = ViewsConfig(2, 1, ((2, 1),))  # two features a side, tiles 1 and 2 abreast
    block = anyres.feature_indices(4, 2, views)
    assert block[:4].tolist() == [0, 1, 2, 3]
    assert block[4:].reshape(2, 5).tolist() == [[4, 5, 8, 9, -1], [6, 7, 10, 11, -1]]


def test_refusals():
    with pytest.raises(ValueError, match="patches of 14 px do not fit views of 7 px"):
        ViewsConfig(size=7)
    with pytest.raises(ValueError, match="positive sides"):
        ViewsConfig(grids=((0, 1),))
    with pytest.raises(ValueError, match="not from RGBA"):
        anyres.cut_views(Image.new("RGBA", (4, 4)), BASE)
    with pytest.raises(ValueError, match="no grids"):
        anyres.choose_grid(4, 4, BASE)
