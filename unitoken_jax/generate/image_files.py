"""Images as files: read upright, put in a grid, written whole or not at all."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import decoding
from unitoken_jax.config import UserError
from unitoken_jax.files import read_user_file, replaced

_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
SUFFIXES = tuple(_FORMATS)
LARGEST = 512 * 2**20
"""Bytes of an image's file; a larger one is refused."""


def read(path: Path) -> Image.Image:
    """Read an image from a file, turned upright as its EXIF says.

    Raises:
        UserError: There is no such file, or it is no image or an enormous one.
    """
    data = read_user_file(path, LARGEST)
    try:
        return decoding.decode(data, str(path), policy="upright")
    except DataError as error:
        raise UserError(f"{error}.") from error


def check_target(path: Path) -> None:
    """Refuse an image's path before any work is done for it.

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


def save(path: Path, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W, 3], in the format of the path's ending.

    Raises:
        UserError: The file cannot be written; nothing is left half-written.
    """
    try:
        with replaced(path) as partial:
            Image.fromarray(image).save(partial, _FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}.") from error


def grid(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Put images side by side on white, as nearly square as they go.

    Args:
        images: uint8 [N, H, W, 3].
        gap: Pixels between them.

    Returns:
        uint8; a single image comes back as it is.
    """
    count, height, width, channels = images.shape
    if count == 1:
        return images[0]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels),
        255,
        np.uint8,
    )
    for n, image in enumerate(images):
        top, left = n // columns * (height + gap), n % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
