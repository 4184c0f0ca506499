"""Pictures to image codes once, before training: a data set with `codes` filled in.

The encoder is passed in, so this file needs no model; the program that has one calls
`pretokenize` with it.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.images import decoding, transforms
from data_pipelines.storage import records
from data_pipelines.storage.directory import atomic_directory
from data_pipelines.storage.manifest import FILE as MANIFEST
from data_pipelines.storage.manifest import Manifest, file_digest, read_manifest
from data_pipelines.storage.shards import Split, find_made, write_split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary

TOKENIZER = "tokenizer.json"
_MOST_BAD = 0.1  # share of the pictures

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
    or not at all; one that was made of the same data by the same encoder is kept. A
    record whose picture cannot be decoded gets no codes and is listed as rejected.

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
    with atomic_directory(output, overwrite=overwrite, mark=MANIFEST) as partial:
        shards = {}
        for name in made_of.splits:
            split = Split(source, name)
            shown = tqdm(split, f"encoding {name}", unit="pic", disable=None)
            coded = (
                record
                for waiting, pixels in _batches(
                    shown, batch, image_size, background, bad
                )
                for record in _with_codes(
                    waiting, np.asarray(encode(pixels)), check, bad
                )
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
        )
        manifest.write(partial)
    return manifest


def _batches(
    split: Iterable[records.Record],
    batch: int,
    image_size: int,
    background: tuple[int, int, int],
    bad: dict[str, str],
) -> Iterator[tuple[list[records.Record], np.ndarray]]:
    """Records in groups of up to `batch` with their pictures [batch, H, W, 3].

    Those without a usable picture are put into `bad`, id → reason.
    """
    iterator = iter(split)
    while waiting := list(islice(iterator, batch)):
        pixels = np.full((batch, image_size, image_size, 3), 255, np.uint8)
        for index, record in enumerate(waiting):
            if not records.has_image(record):
                continue  # text alone
            try:
                picture = decoding.decode(record["image"], f"record {record['id']!r}")
            except decoding.ImageError as error:
                _log.warning("no codes of %s: %s", record["id"], error)
                bad[record["id"]] = str(error)
                continue
            pixels[index] = transforms.to_square(picture, image_size, background)
        yield waiting, pixels


def _with_codes(
    waiting: list[records.Record],
    codes: np.ndarray,
    check: Callable[[np.ndarray, list[records.Record]], None],
    bad: Container[str],
) -> Iterator[records.Record]:
    """Copies of the records with their rows of `codes`, once those are checked."""
    check(codes, waiting)
    for record, grid in zip(waiting, codes[: len(waiting)], strict=True):
        if record["id"] in bad:
            yield {**record, "codes": None, "grid": None}
        elif records.has_image(record):
            yield records.with_codes(record, grid)
        else:
            yield record


def _check_codes(
    codes: np.ndarray,
    waiting: list[records.Record],
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
