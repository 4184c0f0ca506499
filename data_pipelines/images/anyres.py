"""AnyRes: one picture as several square views, and their features as a sequence.

The rules are those of UniToken's published data and model code (which follows LLaVA):
choice of a grid of tiles, padding, cutting, unpadding of the feature mosaic, a newline
at the end of each of its rows. Without grids a picture is one squashed view ("base").
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

NEWLINE = -1  # in `feature_indices`: the newline token's embedding, no feature

# UniToken's pinpoints in tiles, (columns, rows), in the published order, which decides
# between equals.
UNITOKEN_GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))


@dataclass(frozen=True)
class ViewsConfig:
    """How a picture is shown to the continuous encoder.

    Attributes:
        size: Side of a square view in pixels.
        patch: Side of the encoder's patches in pixels; a view gives
            `(size // patch) ** 2` features, S.
        grids: (columns, rows) of tiles to choose from; () is the base variant, one
            squashed view. `UNITOKEN_GRIDS` is what UniToken-AnyRes uses.
    """

    size: int = 384
    patch: int = 14
    grids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.patch <= self.size:
            raise ValueError(
                f"patches of {self.patch} px do not fit views of {self.size} px"
            )
        if any(side < 1 for grid in self.grids for side in grid):
            raise ValueError(f"grids must be of positive sides, not {self.grids}")

    @property
    def side(self) -> int:
        """Features along one side of a view."""
        return self.size // self.patch

    @property
    def features(self) -> int:
        """Features of one view, S."""
        return self.side**2


def choose_grid(width: int, height: int, views: ViewsConfig) -> tuple[int, int]:
    """Returns the (columns, rows) of tiles for a picture of `width` × `height` pixels.

    The grid that keeps most of the picture's pixels wins, then the one that wastes
    least of its canvas, then the earlier one.
    """
    if not views.grids:
        raise ValueError("the base variant has no grids to choose from")
    best, best_kept, best_waste = views.grids[0], -1, 0
    for grid in views.grids:
        canvas_width, canvas_height = (side * views.size for side in grid)
        scale = min(canvas_width / width, canvas_height / height)
        resized = int(width * scale) * int(height * scale)
        kept = min(resized, width * height)
        waste = canvas_width * canvas_height - kept
        if kept > best_kept or (kept == best_kept and waste < best_waste):
            best, best_kept, best_waste = grid, kept, waste
    return best


def count_views(width: int, height: int, views: ViewsConfig) -> int:
    """Returns how many views `cut_views` makes of a picture of this size."""
    if not views.grids:
        return 1
    columns, rows = choose_grid(width, height, views)
    return 1 + columns * rows


def cut_views(image: Image.Image, views: ViewsConfig) -> np.ndarray:
    """Returns the views of an RGB picture, uint8 [M, size, size, 3].

    First the whole picture squashed to a square, then the tiles row by row. Pixels are
    those of the published PIL code, bit for bit.
    """
    if image.mode != "RGB":
        raise ValueError(f"views are cut from RGB pictures, not from {image.mode}")
    size = views.size
    squashed = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    if not views.grids:
        return squashed[None]
    columns, rows = choose_grid(image.width, image.height, views)
    canvas = np.asarray(_pad(image, columns * size, rows * size))
    # [H, W, 3] → [rows, s, columns, s, 3] → [rows, columns, s, s, 3]
    tiles = canvas.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
    # [rows, columns, s, s, 3] → [rows · columns, s, s, 3]
    tiles = tiles.reshape(rows * columns, size, size, 3)
    return np.concatenate([squashed[None], tiles])  # [M, size, size, 3]


def _pad(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scales a picture to fit `width` × `height` and centres it on black."""
    across, down = width / image.width, height / image.height
    if across < down:
        resized = (width, min(math.ceil(image.height * across), height))
    else:
        resized = (min(math.ceil(image.width * down), width), height)
    canvas = Image.new("RGB", (width, height), (0, 0, 0))
    corner = ((width - resized[0]) // 2, (height - resized[1]) // 2)
    canvas.paste(image.resize(resized, Image.Resampling.BICUBIC), corner)
    return canvas


def kept_features(
    width: int, height: int, grid: tuple[int, int], views: ViewsConfig
) -> tuple[slice, slice]:
    """Returns which (rows, columns) of the feature mosaic are picture, not padding.

    When the padding is odd one padded row or column survives, as published.
    """
    columns, rows = (side * views.side for side in grid)
    # The products are formed in the published order: another order rounds otherwise.
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        return slice(padding, rows - padding), slice(0, columns)
    padding = (columns - int(width * (rows / height))) // 2
    return slice(0, rows), slice(padding, columns - padding)


@lru_cache(maxsize=4096)
def feature_indices(width: int, height: int, views: ViewsConfig) -> np.ndarray:
    """Returns what stands in a picture's continuous block, int32 [N], read-only.

    An entry is an index into the features of the picture's views, flattened from
    [M, S], or `NEWLINE`. The squashed view comes first and has no newlines.
    """
    base = np.arange(views.features, dtype=np.int32)
    if not views.grids:
        block = base
    else:
        columns, rows = grid = choose_grid(width, height, views)
        side = views.side
        tiles = (
            np.arange(columns * rows * views.features, dtype=np.int32) + views.features
        )
        # [tile rows, tile columns, side, side] → [feature rows, feature columns]
        mosaic = tiles.reshape(rows, columns, side, side).swapaxes(1, 2)
        mosaic = mosaic.reshape(rows * side, columns * side)
        mosaic = mosaic[kept_features(width, height, grid, views)]
        ends = np.full((len(mosaic), 1), NEWLINE, np.int32)
        block = np.concatenate([base, np.hstack([mosaic, ends]).ravel()])
    block.setflags(write=False)
    return block


def shift_features(block: np.ndarray, features: int) -> np.ndarray:
    """Returns the block of a picture that comes after `features` other features."""
    return np.where(block == NEWLINE, block, block + np.int32(features))


def continuous_length(width: int, height: int, views: ViewsConfig) -> int:
    """Returns the length N of a picture's continuous block, without building it."""
    if not views.grids:
        return views.features
    grid = choose_grid(width, height, views)
    rows, columns = kept_features(width, height, grid, views)
    across = columns.stop - columns.start
    return views.features + (rows.stop - rows.start) * (across + 1)
