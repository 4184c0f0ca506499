"""Folders of pictures: finding, reading and comparing them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unitoken_jax.config import UserError
from unitoken_jax.evaluate import preprocessing
from unitoken_jax.evaluate.distribution import DistributionConfig, compare, extract
from unitoken_jax.evaluate.measure import Measure, summarise
from unitoken_jax.evaluate.networks import Judges, distances

_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"))


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures of a folder, brought to one size when they are read.

    Attributes:
        files: The pictures.
        preprocess: A name of `preprocessing.VARIANTS`.
        size: Side of the square it makes, in pixels.
    """

    files: Sequence[Path]
    preprocess: str = "none"
    size: int = 256

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 [H, W, 3], reading one at a time.

        Raises:
            UserError: A file is no picture.
        """
        for path in self.files:
            yield preprocessing.apply(_read(path), self.preprocess, self.size)


def find(directory: Path) -> list[Path]:
    """List the pictures below a directory in the order of their paths.

    Raises:
        UserError: It is no directory, or there are none.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: give a folder of pictures.")
    found = sorted(p for p in directory.rglob("*") if p.suffix.lower() in _ENDINGS)
    if not found:
        raise UserError(
            f"{directory} holds no pictures: none of its files ends in "
            f"{', '.join(sorted(_ENDINGS))}."
        )
    return found


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has too many pixels: make it smaller.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path} is not a picture, or damaged ({error}): replace or remove it."
        ) from error


def measure(
    real: Folder,
    generated: Folder,
    judges: Judges,
    config: DistributionConfig,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, Measure]:
    """Measure how far the pictures of one folder are from those of another.

    Args:
        real: The reference.
        generated: What is judged.
        judges: Those of features add their measures, see `distribution.compare`; those
            of pairs are asked only where both folders have the same names.
        config: See `DistributionConfig`.
        progress: Called with the number of pictures seen since the last call.

    Raises:
        UserError: A file is no picture, a folder has too few, or their sizes differ.
    """
    found: dict[str, Measure] = {}
    try:
        for network in judges.features:
            reference = extract(network, real, config, progress)
            judged = extract(network, generated, config, progress)
            found |= compare(reference, judged, network.name, config)
        if judges.pairs and _names(real) == _names(generated):
            for pair in judges.pairs:
                values = distances(
                    pair, zip(real, generated, strict=True), config.batch
                )
                found[pair.name] = summarise(values, unit="of 1")
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the folders cannot be compared: {error}.") from error
    return found


def _names(folder: Folder) -> list[str]:
    return [path.stem for path in folder.files]


def labelled(
    directory: Path, names: Sequence[str] = ()
) -> tuple[list[tuple[Path, int]], list[str]]:
    """List pictures with their classes, one folder a class.

    Args:
        directory: Holds the folders.
        names: Of the classes, in the order of the sorted folders; those of the folders
            if there are none.

    Returns:
        Paths with the places of their classes among the names; these names.

    Raises:
        UserError: There are no folders, or not as many as names.
    """
    folders = (
        sorted(p for p in directory.iterdir() if p.is_dir())
        if directory.is_dir()
        else []
    )
    if not folders:
        raise UserError(f"{directory} holds no folders, of which each is a class.")
    if names and len(names) != len(folders):
        raise UserError(
            f"{directory} holds {len(folders)} folders, but there are {len(names)} "
            "names of classes; give as many, in the order of the sorted folders."
        )
    files = [(path, i) for i, folder in enumerate(folders) for path in find(folder)]
    return files, list(names) or [folder.name for folder in folders]
