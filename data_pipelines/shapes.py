"""Shapes of a loader's batches, known from its config alone."""

import numpy as np

from data_pipelines.config import DataConfig

Shape = tuple[tuple[int, ...], type[np.generic]]
_ROW_ARRAYS = ("tokens", "segment_ids", "positions", "targets", "slots")


def batch_shapes(
    config: DataConfig, batch: int, codebooks: int = 1
) -> dict[str, Shape]:
    """Returns (shape, type) of every array that a batch brings to the devices.

    Args:
        config: of the loader, see `loader` for what the arrays hold.
        batch: elements of it.
        codebooks: codes of an image token, where the data holds codes; a picture has
            one token for every `layout.code_stride` pixels along both sides.
    """
    side = config.image_size
    tokens = (side // config.layout.code_stride) ** 2
    views = config.row_views
    pictures: dict[str, Shape] = {"image": ((batch, side, side, 3), np.uint8)}
    row: Shape = ((batch, config.row_length), np.int32)
    rows: dict[str, Shape] = dict.fromkeys(_ROW_ARRAYS, row)
    match config.kind:
        case "pictures":
            return pictures
        case "pairs":
            pictures["text"] = ((batch, config.text_length), np.int32)
            return pictures
        case "sequences":
            side, shown = config.views.size, views if config.shows_views else 0
            rows["pixels"] = ((batch, shown, side, side, 3), np.uint8)
            return rows
        case "liquid":
            rows["codes"] = ((batch, views, tokens, codebooks), np.int32)
            rows["draws"] = ((batch, views * tokens), np.int32)
            return rows
        case "classes":
            return {
                "codes": ((batch, tokens, codebooks), np.int32),
                "label": ((batch,), np.int32),
            }
