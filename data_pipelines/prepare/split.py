"""Which pictures are held out: whole groups of concepts, chosen by a seeded hash.

Concepts that differ in colour, in gender or in words like "flag of" only, and concepts
with the same or nearly the same picture, are one group: no duplicate leaks into
training.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.images import transforms
from data_pipelines.prepare.colors import SPELLINGS

TRAIN, HELDOUT = "train", "heldout"

_THUMBNAIL = 16
_EMPTY_WORDS = re.compile(
    r"a|an|the|of|and|in|on|with|flag|national|official|republic|map"
)
_PERSON_WORDS = re.compile(r"man|woman|men|women|people|boy|girl|male|female")
# Thumbnails fainter than this (mean square of 64 levels) are not told apart.
_FAINTEST = 2.5


def chance(seed: int, *names: str) -> float:
    """A number in [0, 1) that is a fixed function of the seed and the names."""
    text = "\0".join([str(seed), *names])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(group: str, seed: int, heldout_fraction: float) -> str:
    """The split of a group of concepts."""
    held = chance(seed, "concept", group) < heldout_fraction
    return HELDOUT if held else TRAIN


def concept_key(concept: str) -> str:
    """A concept's words in alphabetical order, without colours and empty words.

    Men and women are persons here: pictures of them differ too little to tell apart.
    """
    words = {
        "person" if _PERSON_WORDS.fullmatch(word) else word
        for word in re.findall(r"\w+", concept.lower())
    }
    telling = {word for word in words if not _EMPTY_WORDS.fullmatch(word)}
    telling -= SPELLINGS.keys()
    return " ".join(sorted(telling or words))


def thumbnail(picture: Image.Image) -> np.ndarray:
    """What near-duplicates are told by: uint8 [768] in 0 … 63, over white."""
    square = Image.fromarray(transforms.to_square(picture, 4 * _THUMBNAIL))
    small = square.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small).reshape(-1) >> 2


def concept_groups(
    concepts: Sequence[str],
    thumbnails: np.ndarray,
    distance: float,
    contents: Sequence[bytes] = (),
) -> dict[str, str]:
    """Joins concepts of equal key, of equal and of nearly equal pictures, transitively.

    The distance of two pictures is the root mean square difference of their thumbnails
    relative to the fainter one's difference from white. All of it is exact integer
    arithmetic in float32, so that the groups do not depend on the machine.

    Args:
        concepts: The concept of every picture [n].
        thumbnails: uint8 [n, 768] of `thumbnail`.
        distance: Pictures nearer than this are joined; 0 joins none.
        contents: The file of every picture; equal ones are joined at any distance.

    Returns:
        concept → name of its group, the group's first key in alphabetical order.
    """
    parent = {key: key for key in map(concept_key, concepts)}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = [concept_key(concept) for concept in concepts]
    for first, second in [*_equal(contents), *_near(thumbnails, distance)]:
        a, b = sorted((root(keys[first]), root(keys[second])))
        parent[b] = a
    return {concept: root(key) for concept, key in zip(concepts, keys, strict=True)}


def _equal(contents: Sequence[bytes]) -> list[tuple[int, int]]:
    """Each place whose content stands earlier as well, with the first such place."""
    first: dict[bytes, int] = {}
    pairs = [
        (first.setdefault(data, place), place) for place, data in enumerate(contents)
    ]
    return [pair for pair in pairs if pair[0] != pair[1]]


def _near(thumbnails: np.ndarray, distance: float) -> list[tuple[int, int]]:
    """Pairs of pictures nearer than `distance`, in blocks to bound the memory."""
    # Sums of 768 products of 6-bit numbers stay below 2^24: exact in any order.
    ink = 63 - thumbnails.astype(np.float32)  # [n, 768]
    squares = (ink * ink).sum(-1)  # [n]
    floor = np.maximum(squares, np.float32(_FAINTEST * ink.shape[-1]))
    pairs: list[tuple[int, int]] = []
    block = 512
    for start in range(0, len(ink), block):
        rows = slice(start, start + block)
        products = ink[rows] @ ink.T  # [block, n]
        apart = squares[rows, None] + squares[None, :] - 2 * products
        limit = distance**2 * np.minimum(floor[rows, None], floor[None, :])
        for row, column in np.argwhere(apart < limit):
            if start + row < column:
                pairs.append((start + int(row), int(column)))
    return pairs
