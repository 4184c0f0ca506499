"""Shapes of a loader's batches, known from its config alone."""

from functools import singledispatch

import numpy as np

from data_pipelines.config import (
    ClassesConfig,
    DataConfig,
    LiquidRowsConfig,
    PairsConfig,
    PicturesConfig,
    SequencesConfig,
)

Shape = tuple[tuple[int, ...], type[np.generic]]
_ROW_ARRAYS = ("tokens", "segment_ids", "positions", "targets", "slots")


@singledispatch
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
    raise TypeError(f"no shapes are known of {type(config).__name__}")


@batch_shapes.register
def _(config: PicturesConfig, batch: int, codebooks: int = 1) -> dict[str, Shape]:
    return {"image": ((batch, config.image_size, config.image_size, 3), np.uint8)}


@batch_shapes.register
def _(config: PairsConfig, batch: int, codebooks: int = 1) -> dict[str, Shape]:
    return {
        "image": ((batch, config.image_size, config.image_size, 3), np.uint8),
        "text": ((batch, config.text_length), np.int32),
    }


@batch_shapes.register
def _(config: SequencesConfig, batch: int, codebooks: int = 1) -> dict[str, Shape]:
    row: Shape = ((batch, config.row_length), np.int32)
    side, shown = config.views.size, config.row_views if config.shows_views else 0
    rows: dict[str, Shape] = dict.fromkeys(_ROW_ARRAYS, row)
    return rows | {"pixels": ((batch, shown, side, side, 3), np.uint8)}


@batch_shapes.register
def _(config: LiquidRowsConfig, batch: int, codebooks: int = 1) -> dict[str, Shape]:
    row: Shape = ((batch, config.row_length), np.int32)
    tokens, views = _tokens(config), config.row_views
    rows: dict[str, Shape] = dict.fromkeys(_ROW_ARRAYS, row)
    return rows | {
        "codes": ((batch, views, tokens, codebooks), np.int32),
        "draws": ((batch, views * tokens), np.int32),
    }


@batch_shapes.register
def _(config: ClassesConfig, batch: int, codebooks: int = 1) -> dict[str, Shape]:
    return {
        "codes": ((batch, _tokens(config), codebooks), np.int32),
        "label": ((batch,), np.int32),
    }


def _tokens(config: LiquidRowsConfig | ClassesConfig) -> int:
    return (config.image_size // config.layout.code_stride) ** 2
