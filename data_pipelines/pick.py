"""A data set of one picture and its caption: python -m data_pipelines.pick.

Both splits of it hold the same record with its first picture, this caption alone and
neither questions nor messages, to see on new hardware that a model learns at all
(`configs/overfit_one.py`).
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from data_pipelines.errors import DataError
from data_pipelines.storage import records
from data_pipelines.storage.directory import atomic_directory
from data_pipelines.storage.manifest import FILE as MANIFEST
from data_pipelines.storage.manifest import Manifest, file_digest, read_manifest
from data_pipelines.storage.records import Record
from data_pipelines.storage.shards import Split, find_made, write_split
from unitoken_jax.errors import exit_code
from unitoken_jax.files import path_argument

TOKENIZER = "tokenizer.json"
SPLITS = ("train", "heldout")


class PickError(DataError):
    """There is no such picture."""


def pick(source: Path, output: Path, caption: str) -> Manifest:
    """Write a data set of the first training picture with a caption.

    Args:
        source: A prepared data set; its vocabulary is kept.
        output: The directory to make; one that holds something else is replaced.
        caption: In full.

    Returns:
        The manifest of `output`.

    Raises:
        DataError: There is no such picture, or a directory cannot be used.
    """
    made_of = read_manifest(source)
    provenance = {"source": made_of.digest, "caption": caption}
    if (made := find_made(output, provenance)) is not None:
        return made
    entry = records.encode(_find(source, caption))
    with atomic_directory(output, overwrite=True, mark=MANIFEST) as partial:
        shards = {
            split: write_split(partial, split, [entry], count=1, shards=1)
            for split in SPLITS
        }
        shutil.copyfile(source / TOKENIZER, partial / TOKENIZER)
        files = {TOKENIZER: file_digest(partial / TOKENIZER)}
        manifest = Manifest(
            shards, provenance, {}, (), files, image_policy=made_of.image_policy
        )
        manifest.write(partial)
    return manifest


def _find(source: Path, caption: str) -> Record:
    split = Split(source, SPLITS[0])
    try:
        for record in split:
            if caption in record["captions"]:
                alone = {"captions": [caption], "questions": [], "messages": []}
                return cast(Record, {**record, **alone, "images": record["images"][:1]})
    finally:
        split.close()
    raise PickError(
        f"no training picture of {source} has the caption {caption!r}; captions are "
        "compared in full"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the data set; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.pick",
        description="Makes a data set of one picture and its caption.",
    )
    parser.add_argument(
        "--input",
        type=path_argument("--input"),
        required=True,
        help="prepared data set",
    )
    parser.add_argument(
        "--output",
        type=path_argument("--output"),
        required=True,
        help="directory to make",
    )
    parser.add_argument(
        "--caption",
        default="a red heart on a black background",
        help="of the picture, in full (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    try:
        pick(given.input, given.output, given.caption)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    print(f"{given.output} holds {given.caption!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
