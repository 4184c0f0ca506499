"""Pictures to image codes once, before training: a data set with `codes` filled in.

The encoder is passed in, so this file needs no model; the program that has one calls
`pretokenize` with it.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.images import decoding, transforms
from data_pipelines.storage import records
from data_pipelines.storage.directory import atomic_directory
from data_pipelines.storage.manifest import FILE as MANIFEST
from data_pipelines.storage.manifest import (
    Manifest,
    Policy,
    file_digest,
    read_manifest,
)
from data_pipelines.storage.records import Record
from data_pipelines.storage.shards import Split, find_made, write_split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary

TOKENIZER = "tokenizer.json"
_MOST_BAD = 0.1  # share of the records
_MOST_WAITING = 4  # records that wait for their codes, in batches

_log = logging.getLogger(__name__)


class PretokenizeError(DataError):
    """An encoder whose codes do not fit the data set."""


def pretokenize(
    input_dir: str | Path,
    output_dir: str | Path,
    encode: Callable[[np.ndarray], np.ndarray],
    *,
    batch: int,
    image_size: int,
    tokenizer_id: str,
    background: tuple[int, int, int] = transforms.WHITE,
    codebook: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes a copy of a prepared data set whose records hold image codes.

    Splits, shards and the order of records stay as they are. `output_dir` appears whole
    or not at all; one that was made of the same data by the same encoder is kept. All
    pictures of a record are encoded, whole (the crop "letterbox"). One that cannot be
    decoded gets no codes, and its record is listed as rejected.

    Args:
        input_dir: A prepared data set.
        output_dir: The directory to make.
        encode: uint8 [batch, H, W, 3] → integer codes [batch, h, w], or [batch, h, w,
            K] of several codebooks. It is called with whole batches only, the last one
            filled up with blank pictures.
        batch: Pictures in one call.
        image_size: H and W; pictures are fitted into this square.
        tokenizer_id: Names the encoder and its weights, such as a digest of them.
        background: Colour behind transparent pictures.
        codebook: Codebooks K and codes in each, of an encoder whose codes are no ids
            of the vocabulary; None for one codebook that the vocabulary names.
        overwrite: Replace an `output_dir` that was made of something else.

    Returns:
        The manifest of `output_dir`.

    Raises:
        DataError: The input is damaged, the output cannot be written, the codes do not
            fit the vocabulary, or more than a tenth of the pictures are no pictures.
    """
    source, output = Path(input_dir), Path(output_dir)
    made_of = read_manifest(source)
    provenance = {
        "source": {"digest": made_of.digest, "provenance": made_of.provenance},
        "tokenizer_id": tokenizer_id,
        "image_size": image_size,
        "background": list(background),
    } | ({} if codebook is None else {"codebook": list(codebook)})
    made = find_made(output, provenance)
    if made is not None:
        _log.info("%s is up to date", output)
        return made
    if codebook is None:
        count = ChameleonVocabulary.from_file(source / TOKENIZER).num_codes
    else:
        count = codebook[1]
    check = functools.partial(_check_codes, count=count, named=codebook is None)
    bad: dict[str, str] = {}
    show = functools.partial(
        _show,
        image_size=image_size,
        background=background,
        policy=made_of.image_policy,
        bad=bad,
    )
    with atomic_directory(output, overwrite=overwrite, mark=MANIFEST) as partial:
        shards = {}
        for name in made_of.splits:
            split = Split(source, name)
            shown = tqdm(split, f"encoding {name}", unit="rec", disable=None)
            coded = _encoded(
                shown,
                show,
                lambda pixels: np.asarray(encode(pixels)),
                check,
                np.full((batch, image_size, image_size, 3), 255, np.uint8),
            )
            shards[name] = write_split(
                partial,
                name,
                map(records.encode, coded),
                count=len(split),
                shards=len(made_of.splits[name]),
            )
        total = sum(shard.records for made in shards.values() for shard in made)
        if len(bad) > max(1, _MOST_BAD * total):
            raise PretokenizeError(
                f"{len(bad):,} of {total:,} pictures of {source} cannot be decoded; "
                f"{next(iter(bad.values()))}. Prepare the data again"
            )
        shutil.copyfile(source / TOKENIZER, partial / TOKENIZER)
        manifest = Manifest(
            splits=shards,
            provenance=provenance,
            counts=made_of.counts,
            rejected=(
                *made_of.rejected,
                *({"record": name, "reason": reason} for name, reason in bad.items()),
            ),
            files={TOKENIZER: file_digest(partial / TOKENIZER)},
            categories=made_of.categories,
            image_policy=made_of.image_policy,
        )
        manifest.write(partial)
    return manifest


def _encoded(
    split: Iterable[Record],
    show: Callable[[Record, int], np.ndarray | None],
    encode: Callable[[np.ndarray], np.ndarray],
    check: Callable[[np.ndarray, Sequence[Record]], None],
    blank: np.ndarray,
) -> Iterator[Record]:
    """Yields copies of the records in their order, with codes of all their pictures.

    Args:
        split: The records.
        show: (record, number of its image) → pixels [H, W, 3], or None if there are
            none that can be used; such a picture stays without codes.
        encode: Pixels [batch, H, W, 3] → codes.
        check: Refuses codes of another shape.
        blank: Pixels of a batch without pictures, [batch, H, W, 3].
    """
    batch = len(blank)
    waiting: list[Record] = []
    pictures: list[tuple[int, int]] = []  # (place in `waiting`, image) without codes

    def fill() -> None:
        """Encodes the first pictures that wait, a batch at most."""
        some, pictures[:] = pictures[:batch], pictures[batch:]
        shown = [show(waiting[place], image) for place, image in some]
        pixels = blank.copy()
        for slot, seen in enumerate(shown):
            if seen is not None:
                pixels[slot] = seen
        codes = encode(pixels)
        check(codes, [waiting[place] for place, _ in some])
        for (place, image), each, seen in zip(some, codes, shown, strict=False):
            if seen is not None:
                waiting[place] = records.with_codes(waiting[place], each, image=image)

    for record in split:
        # Codes that were there are of another tokenizer.
        waiting.append(records.without_codes(record))
        place = len(waiting) - 1
        pictures += [(place, image) for image in range(len(record["images"]))]
        while len(pictures) >= batch:
            fill()
        if not pictures or len(waiting) > _MOST_WAITING * batch:
            while pictures:
                fill()
            yield from waiting
            waiting.clear()
    while pictures:
        fill()
    yield from waiting


def _show(
    record: Record,
    image: int,
    *,
    image_size: int,
    background: tuple[int, int, int],
    policy: Policy,
    bad: dict[str, str],
) -> np.ndarray | None:
    """One of a record's pictures fitted into a square, uint8 [H, W, 3].

    Returns:
        None if it cannot be decoded, which is noted in `bad`, id → reason.
    """
    try:
        picture = decoding.decode_image(record, image, policy=policy)
    except decoding.ImageError as error:
        _log.warning("no codes of %s: %s", record["id"], error)
        bad[record["id"]] = str(error)
        return None
    return transforms.to_square(picture, image_size, background)


def _check_codes(
    codes: np.ndarray,
    waiting: Sequence[Record],
    *,
    count: int,
    named: bool,
) -> None:
    """Refuses codes of another shape, or outside the `count` codes there are.

    `named` says that they are those which the vocabulary names.
    """
    if codes.ndim != 4 - named or len(codes) < len(waiting):
        wanted = "[batch, h, w]" if named else "[batch, h, w, codebooks]"
        raise PretokenizeError(
            f"the encoder gave codes of shape {list(codes.shape)} for a batch that "
            f"begins with record {waiting[0]['id']!r}; it must give {wanted}"
        )
    used = codes[: len(waiting)]
    if used.size and not 0 <= used.min() <= used.max() < count:
        owner = "data set's vocabulary" if named else "codebook"
        hint = "; prepare the data with --num_codes as large as the encoder's codebook"
        raise PretokenizeError(
            f"the encoder gave codes from {used.min()} to {used.max()}, the {owner} "
            f"has 0 … {count - 1}{hint if named else ''}"
        )
