"""manifest.json: what a prepared data set holds and what it was made from.

It is written last, so a directory with a manifest is complete; the size and digest of
every shard stand in it, so that a cut-off or changed file is noticed before it is read.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from unitoken_jax.files import write_text

FILE = "manifest.json"
_FORMAT = 1


class ManifestError(DataError):
    """A directory is no prepared data set, or its manifest cannot be read."""


@dataclass(frozen=True)
class Shard:
    """One file of a split: its name, number of records, bytes and SHA-256 digest."""

    name: str
    records: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of a prepared data set.

    Attributes:
        splits: The shards of each split in order.
        provenance: Everything the bytes are a function of (digest of the source,
            options, seed, versions); two data sets of equal provenance are equal.
        counts: Figures for people: records per split and kind.
        rejected: Input records that were set aside, each {"record", "reason"}.
        files: SHA-256 digests of the other files, such as tokenizer.json.
    """

    splits: dict[str, tuple[Shard, ...]]
    provenance: dict[str, Any]
    counts: dict[str, Any]
    rejected: tuple[dict[str, str], ...]
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """One SHA-256 over the digests of every file of the data set."""
        lines = [
            f"{shard.sha256} {shard.name}"
            for split in sorted(self.splits)
            for shard in self.splits[split]
        ]
        lines += [f"{digest} {name}" for name, digest in sorted(self.files.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def write(self, directory: Path) -> None:
        """Writes manifest.json into `directory`."""
        data = {"format": _FORMAT, "digest": self.digest, **asdict(self)}
        text = json.dumps(data, indent=1, ensure_ascii=False)
        write_text(directory / FILE, text + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a prepared data set.

    Raises:
        ManifestError: There is none, it is damaged, or another format's.
    """
    path = directory / FILE
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ManifestError(
            f"{directory} is not a prepared data set: it has no {FILE}; make one with "
            f"python -m data_pipelines.prepare --input ZIP --output {directory}"
        ) from error
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path} cannot be read ({error}); prepare the data again with --overwrite"
        ) from error
    try:
        if data["format"] != _FORMAT:
            raise ManifestError(
                f"{path} has format {data['format']}, this program reads {_FORMAT}; "
                "prepare the data again with --overwrite"
            )
        return Manifest(
            splits={
                split: tuple(Shard(**shard) for shard in shards)
                for split, shards in data["splits"].items()
            },
            provenance=data["provenance"],
            counts=data["counts"],
            rejected=tuple(data["rejected"]),
            files=data["files"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{path} lacks what a manifest holds ({error}); "
            "prepare the data again with --overwrite"
        ) from error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
