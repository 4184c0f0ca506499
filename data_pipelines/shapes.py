"""Shapes of a loader's batches, known from its config alone."""

import numpy as np

from data_pipelines.config import DataConfig

Shape = tuple[tuple[int, ...], type[np.generic]]
_ROW_ARRAYS = ("tokens", "segment_ids", "positions", "targets", "slots")


def batch_shapes(config: DataConfig, batch: int) -> dict[str, Shape]:
    """Returns (shape, type) of every array that a batch brings to the devices.

    Args:
        config: of the loader, see `loader` for what the arrays hold.
        batch: elements of it.
    """
    side = config.image_size
    pictures: dict[str, Shape] = {"image": ((batch, side, side, 3), np.uint8)}
    match config.kind:
        case "pictures":
            return pictures
        case "pairs":
            return pictures | {"text": ((batch, config.text_length), np.int32)}
        case "sequences":
            side = config.views.size
            views = config.row_views if config.shows_views else 0
            rows: dict[str, Shape] = dict.fromkeys(
                _ROW_ARRAYS, ((batch, config.row_length), np.int32)
            )
            return rows | {"pixels": ((batch, views, side, side, 3), np.uint8)}
