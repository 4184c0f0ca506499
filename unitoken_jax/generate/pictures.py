"""Pictures as files: side by side in a grid, written whole or not at all."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from unitoken_jax.config import UserError

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


def check_target(path: Path) -> None:
    """Refuse a picture's path before any work is done for it.

    Raises:
        UserError: Its ending is no format we write, or its directory does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--output {path}: a picture is written as {', '.join(SUFFIXES)}; "
            "give the file one of these endings."
        )
    check_directory(path)


def check_directory(path: Path) -> None:
    """Refuse a file's path whose directory does not exist."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: its directory does not exist; make it first.")


def save(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 [H, W, 3], in the format of the path's ending.

    Raises:
        UserError: The file cannot be written; nothing is left half-written.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        Image.fromarray(picture).save(partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def grid(pictures: np.ndarray, gap: int = 2) -> np.ndarray:
    """Put pictures side by side on white, as nearly square as they go.

    Args:
        pictures: uint8 [N, H, W, 3].
        gap: Pixels between them.

    Returns:
        uint8; a single picture comes back as it is.
    """
    count, height, width, channels = pictures.shape
    if count == 1:
        return pictures[0]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels),
        255,
        np.uint8,
    )
    for n, picture in enumerate(pictures):
        top, left = n // columns * (height + gap), n % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
