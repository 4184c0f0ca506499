"""Folders of images: finding, reading, pairing and comparing them.

How a file becomes an image is the same for both folders.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.images import decoding, transforms
from unitoken_jax.config import UserError
from unitoken_jax.evaluate.feature_networks import preprocessing
from unitoken_jax.evaluate.feature_networks.distribution import (
    DistributionConfig,
    compare,
    extract,
)
from unitoken_jax.evaluate.feature_networks.extractors import (
    FeatureExtractors,
    distances,
    load_extractors,
)
from unitoken_jax.evaluate.statistics.intervals import Measure, summarize
from unitoken_jax.files import read_user_file, write_bytes

log = logging.getLogger(__name__)

LARGEST_FILE = 512 * 2**20
"""Bytes of an image's file; a larger one is refused."""

Read = Callable[[Path], Image.Image]
"""Reads a file into an RGB picture, or raises a UserError."""

_ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
)
_SHOWN = 3  # names in a message


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures of a folder, brought to one size when they are read.

    Attributes:
        directory: The folder.
        files: The pictures in it.
        read: See `Read`.
        preprocess: A name of `preprocessing.VARIANTS`.
        size: Side of the square it makes, in pixels.
        faults: What is wrong with the files that cannot be read, filled by reading.
    """

    directory: Path
    files: Sequence[Path]
    read: Read
    preprocess: str = "none"
    size: int = 256
    faults: dict[Path, str] = dataclasses.field(default_factory=dict)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the pictures that can be read, uint8 [H, W, 3], one at a time."""
        return (image for _, image in self.numbered())

    def numbered(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the same with their places in `files`."""
        for place in range(len(self.files)):
            image = self.image(place)
            if image is not None:
                yield place, image

    def image(self, place: int) -> np.ndarray | None:
        """Return the picture of a file, or None if it cannot be read."""
        path = self.files[place]
        if path in self.faults:
            return None
        try:
            return preprocessing.apply(self.read(path), self.preprocess, self.size)
        except (UserError, ValueError) as error:
            self.faults[path] = str(error)
            return None

    def report(self) -> None:
        """Warn of the files that could not be read.

        Raises:
            UserError: None could.
        """
        if not self.faults:
            return
        count, of = len(self.faults), len(self.files)
        reasons = " ".join(list(self.faults.values())[:_SHOWN])
        if count == of:
            raise UserError(
                f"{self.directory}: none of its {of:,} pictures can be read. {reasons}"
            )
        log.warning(
            "%s: %s of %s pictures (%.2g %%) are set aside. %s%s",
            *(self.directory, f"{count:,}", f"{of:,}", 100 * count / of, reasons),
            " …" if count > _SHOWN else "",
        )


def find(directory: Path) -> list[Path]:
    """List the pictures below a directory in the order of their paths.

    Raises:
        UserError: It is no directory, or there are none.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: give a folder of pictures.")
    found = sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in _ENDINGS and path.is_file()
    )
    if not found:
        raise UserError(
            f"{directory} holds no pictures: none of its files ends in "
            f"{', '.join(sorted(_ENDINGS))}."
        )
    return found


class Pairing(NamedTuple):
    """Which pictures of two folders belong together.

    Attributes:
        places: Of both pictures of each pair among the files of their folders.
        missing: Of each folder, what has no partner, relative to it.
    """

    places: Sequence[tuple[int, int]]
    missing: tuple[Sequence[Path], Sequence[Path]]


def pair(first: Folder, second: Folder) -> Pairing:
    """Pair pictures whose paths within their folders are equal but for the ending.

    Raises:
        UserError: A path has several endings in one folder and there is a partner for
            it, so that it is not known which is meant.
    """
    sides = [_named(folder) for folder in (first, second)]
    places: list[tuple[int, int]] = []
    for name in sorted(sides[0].keys() & sides[1].keys()):
        one, other = (side[name] for side in sides)
        if one.keys() == other.keys():  # a.png and a.jpg in both
            places += [(one[ending], other[ending]) for ending in sorted(one)]
        elif len(one) == len(other) == 1:
            places += zip(one.values(), other.values(), strict=True)
        else:
            several = first if len(one) > 1 else second
            endings = sorted(max(one, other, key=len))
            raise UserError(
                f"{several.directory} holds {name} with the endings "
                f"{', '.join(endings)}, so that it is not known which of them belongs "
                "to the other folder's; remove or rename all but one."
            )
    gone: list[list[Path]] = []
    for folder, side, other in zip((first, second), sides, sides[::-1], strict=True):
        lonely = side.keys() - other.keys()
        numbers = sorted(place for name in lonely for place in side[name].values())
        gone.append([folder.files[i].relative_to(folder.directory) for i in numbers])
    return Pairing(sorted(places), (gone[0], gone[1]))


def _named(folder: Folder) -> dict[Path, dict[str, int]]:
    """Sort the places of a folder's files by their paths, and then by their endings."""
    found: dict[Path, dict[str, int]] = {}
    for place, path in enumerate(folder.files):
        name = path.relative_to(folder.directory)
        found.setdefault(name.with_suffix(""), {})[name.suffix] = place
    return found


def reader(
    orientation: decoding.Policy, background: tuple[int, int, int] = transforms.WHITE
) -> Read:
    """Return what reads files as training reads records: over a plain background.

    Args:
        orientation: Whether the EXIF of a file is ignored or followed.
        background: What shows where an image is transparent.
    """

    def read(path: Path) -> Image.Image:
        data = read_user_file(path, LARGEST_FILE)
        try:
            image = decoding.decode(data, str(path), policy=orientation)
        except DataError as error:
            raise UserError(f"{error}.") from error
        return transforms.composite(image, background)

    return read


@dataclasses.dataclass(frozen=True)
class FoldersConfig:
    """Which folders are compared, and how.

    Attributes:
        real: The folder of real images.
        generated: The folder of images to judge.
        alexnet: Weights of AlexNet, see `load_extractors`.
        inception: Weights of the FID's Inception, or "".
        lpips: Weights of LPIPS, or "".
        preprocess: How images get their size, a name of `preprocessing.VARIANTS`.
        orientation: Whether EXIF turns images upright.
        size: Side after preprocessing, in pixels.
        batch: Images in a network at once.
        keep: Whether features are held in memory, for more than the Fréchet distance.
    """

    real: Path
    generated: Path
    alexnet: str = ""
    inception: str = ""
    lpips: str = ""
    preprocess: str = "none"
    orientation: decoding.Policy = "released"
    size: int = 256
    batch: int = 32
    keep: bool = True


def compare_folders(config: FoldersConfig) -> dict[str, Measure]:
    """Compare two folders of images by the networks whose weights are there.

    Raises:
        UserError: A folder or weights are missing, damaged or do not fit.
    """
    read = reader(config.orientation)
    real, generated = (
        Folder(path, find(path), read, config.preprocess, config.size)
        for path in (config.real, config.generated)
    )
    extractors = load_extractors(config.alexnet, config.inception, config.lpips)
    if not extractors.features:
        raise UserError(
            "comparing folders needs a network's weights: --inception FILE for the "
            "FID, or --alexnet FILE, which python -m unitoken_jax.convert.perceptual "
            "fetches."
        )
    total = len(extractors.features) * (len(real.files) + len(generated.files))
    with tqdm(total=total, desc="looking", unit="", disable=None, leave=False) as bar:
        return measure(
            real,
            generated,
            extractors,
            DistributionConfig(batch=config.batch, keep=config.keep),
            bar.update,
        )


def measure(
    real: Folder,
    generated: Folder,
    extractors: FeatureExtractors,
    config: DistributionConfig,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, Measure]:
    """Measure how far the pictures of one folder are from those of another.

    Files that cannot be read are left out of all, with a warning.

    Args:
        real: The reference.
        generated: What is judged.
        extractors: Those of features add their measures, see `distribution.compare`;
            those of pairs are asked where both folders have the same names, see `pair`.
        config: See `DistributionConfig`.
        progress: Called with the number of pictures seen since the last call.

    Raises:
        UserError: A folder has too few pictures, their sizes differ, or it is not known
            which belong together.
    """
    found: dict[str, Measure] = {}
    paired = pair(real, generated) if extractors.pairs else Pairing((), ((), ()))
    try:
        for network in extractors.features:
            reference = extract(network, real, config, progress)
            judged = extract(network, generated, config, progress)
            found |= compare(reference, judged, network.name, config)
        if paired.places:
            _report_missing(real, generated, paired)
            for network in extractors.pairs:
                pairs = _image_pairs(real, generated, paired)
                values = distances(network, pairs, config.batch)
                found[network.name] = summarize(values, unit="of 1")
        elif extractors.pairs:
            log.warning(
                "%s: left out, no picture of one folder has the name of one of the "
                "other",
                ", ".join(network.name for network in extractors.pairs),
            )
    except UserError:
        raise
    except ValueError as error:
        for folder in (real, generated):
            folder.report()  # which may say why
        raise UserError(f"the folders cannot be compared: {error}.") from error
    for folder in (real, generated):
        folder.report()
    return found


def write(path: Path, found: Mapping[str, Measure]) -> None:
    """Write the measures of two folders as JSON."""
    content = {key: dataclasses.asdict(value) for key, value in found.items()}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def _image_pairs(
    real: Folder, generated: Folder, paired: Pairing
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of which both pictures can be read."""
    for places in paired.places:
        one, other = real.image(places[0]), generated.image(places[1])
        if one is not None and other is not None:
            yield one, other


def _report_missing(real: Folder, generated: Folder, paired: Pairing) -> None:
    for folder, names in zip((real, generated), paired.missing, strict=True):
        if names:
            log.warning(
                "%s: %s of %s pictures have no partner of the same name: %s%s",
                *(folder.directory, f"{len(names):,}", f"{len(folder.files):,}"),
                ", ".join(map(str, names[:_SHOWN])),
                " …" if len(names) > _SHOWN else "",
            )


def labelled(
    directory: Path, names: Sequence[str] = ()
) -> tuple[list[tuple[Path, int]], list[str]]:
    """List pictures with their classes, one folder a class.

    Args:
        directory: Holds the folders; those whose names begin with a dot are none.
        names: Of the classes, in the order of the sorted folders; those of the folders
            if there are none.

    Returns:
        Paths with the places of their classes among the names; these names.

    Raises:
        UserError: There are no folders, or not as many as names.
    """
    folders = (
        sorted(p for p in directory.iterdir() if p.is_dir() and p.name[0] != ".")
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
