"""Pictures as files: side by side in a grid, written whole or not at all."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from unitoken_jax.config import UserError
from unitoken_jax.files import replaced

_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
SUFFIXES = tuple(_FORMATS)


def check_target(path: Path) -> None:
    """Refuse a picture's path before any work is done for it.

    Raises:
        UserError: Its ending is no format we write, or no file can be written there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: a picture is written as {', '.join(SUFFIXES)}; give the file one "
            "of these endings."
        )
    check_file(path)


def check_file(path: Path) -> None:
    """Refuse a file's path where none can be written.

    Raises:
        UserError: Its directory does not exist or may not be written to, or it is a
            directory itself.
    """
    parent = path.absolute().parent
    try:
        os.lstat(parent)
        is_directory = os.path.lexists(path) and path.is_dir()
    except FileNotFoundError as error:
        raise UserError(f"{path}: its directory does not exist; make it first.") from (
            error
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}.") from error
    if is_directory:
        raise UserError(f"{path} is a directory; name a file.")
    if not parent.is_dir():
        raise UserError(f"{path}: {parent} is no directory; name another.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {parent} is not yours to change.")


def save(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 [H, W, 3], in the format of the path's ending.

    Raises:
        UserError: The file cannot be written; nothing is left half-written.
    """
    try:
        with replaced(path) as partial:
            Image.fromarray(picture).save(partial, _FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}.") from error


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
