"""manifest.json: what a prepared data set holds and what it was made from.

It is written last, so a directory with a manifest is complete; size and digests of
every file stand in it, so that a changed one is noticed (see `integrity`). Format 3 is
of records of version 3. The formats of earlier programs are read as well: 2 is of their
records (see `earlier`), 1 also has the pictures within them, and neither probes nor a
seal.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args

from data_pipelines.errors import DataError
from unitoken_jax.files import read_json, write_text

FILE = "manifest.json"
TOKENIZER = "tokenizer.json"
FORMATS = (1, 2, 3)
# How EXIF's orientation is read: not at all, as the published loaders have it, or so
# that the picture stands upright.
Policy = Literal["released", "upright"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
_MOST = 2**31 - 1  # records of a split: they are numbered in int32
_DIGEST = re.compile(r"[0-9a-f]{64}")


T = TypeVar("T")
Fields = Mapping[str, object]
"""What a group of JSON says."""


class ManifestError(DataError):
    """A directory is no prepared data set, or its manifest cannot be read."""


@dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        name: Of the file.
        records: How many entries it has.
        size: In bytes.
        sha256: Of all of it.
        probe: Digest of parts of it (see `integrity.probe`); "" in format 1.
        pictures: The file whose entries hold all pictures of each of its records; None
            if the records hold them.
    """

    name: str
    records: int
    size: int
    sha256: str
    probe: str = ""
    pictures: "Shard | None" = None


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
        categories: Those of the training records, sorted; none if it does not say.
        image_policy: How the files of pictures are read (`images.decoding.Policy`): all
            but 'released' only where they stand in the data set as they came.
    """

    splits: dict[str, tuple[Shard, ...]]
    provenance: dict[str, Any]
    counts: dict[str, Any]
    rejected: tuple[dict[str, str], ...]
    files: dict[str, str]
    categories: tuple[str, ...] = ()
    image_policy: Policy = "released"

    @property
    def digest(self) -> str:
        """One SHA-256 over the digests of every file of the data set."""
        return _digest(self.splits, self.files)

    def write(self, directory: Path) -> None:
        """Writes manifest.json into `directory`."""
        data = {"format": FORMATS[-1], "digest": self.digest, **asdict(self)}
        data["seal"] = _seal(data)
        text = json.dumps(data, indent=1, ensure_ascii=False)
        write_text(directory / FILE, text + "\n")


def _digest(splits: Mapping[str, Sequence[Shard]], files: Mapping[str, str]) -> str:
    shards = [shard for split in sorted(splits) for shard in splits[split]]
    shards += [shard.pictures for shard in shards if shard.pictures is not None]
    lines = [f"{shard.sha256} {shard.name}" for shard in shards]
    lines += [f"{digest} {name}" for name, digest in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _seal(data: Mapping[str, object]) -> str:
    """A SHA-256 of everything else in a manifest."""
    rest = {key: value for key, value in data.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a prepared data set.

    Raises:
        ManifestError: There is none, it is damaged, or another format's.
    """
    path = directory / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ManifestError(
            f"{directory} is not a prepared data set: it has no {FILE}; make one with "
            f"python -m data_pipelines.prepare --input ZIP --output {directory}"
        ) from error
    except OSError as error:
        raise ManifestError(
            f"{path} cannot be read ({error.strerror}); see that it is a file, on a "
            "disk that works, and that this user may read it"
        ) from error
    try:
        data = read_json(content)
    except ValueError as error:
        raise ManifestError(
            f"{path} cannot be read ({error}); copy it again or prepare the data again "
            "with --overwrite"
        ) from error
    return _Reader(path).manifest(data)


class _Reader:
    """Takes the JSON of a manifest apart, and refuses what is not as it should be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self, data: object) -> Manifest:
        """The manifest that `data` describes."""
        if not isinstance(data, dict):
            self._refuse(_lacks("it is no group of fields"))
        found = data.get("format")
        if isinstance(found, bool) or found not in FORMATS:
            shown = repr(found) if found is None or len(repr(found)) < 40 else "another"
            raise ManifestError(
                f"{self._path} has format {shown}, this program reads "
                f"{', '.join(map(str, FORMATS))}; prepare the data again with "
                "--overwrite"
            )
        if found > 1 and data.get("seal") != _seal(data):
            self._refuse("was changed after it was written: its seal is another's")
        manifest = Manifest(
            splits={
                split: tuple(self._shard(row, split) for row in rows)
                for split, rows in self._group(data, "splits", list).items()
            },
            provenance=self._group(data, "provenance", object),
            counts=self._group(data, "counts", object),
            rejected=tuple(self._rows(data, "rejected", dict)),
            files=self._group(data, "files", str),
            categories=tuple(self._rows(data, "categories", str, absent=())),
            image_policy=self._policy(data),
        )
        self._check(manifest)
        if data.get("digest") != _digest(manifest.splits, manifest.files):
            self._refuse("was changed after it was written: its digest is another's")
        return manifest

    def _shard(self, row: object, split: str, inner: bool = False) -> Shard:
        if not isinstance(row, dict):
            self._refuse(_lacks(f"a shard of {split!r} is {row!r}"))
        known = Shard.__dataclass_fields__.keys()
        for name in row.keys() - known:
            self._refuse(_lacks(f"a shard has {name!r}"))
        pictures = row.get("pictures")
        if pictures is not None:
            if inner:
                self._refuse(_lacks("pictures have pictures"))
            pictures = self._shard(pictures, split, inner=True)
        shard = Shard(
            self._name(row.get("name")),
            self._number(row, "records", _MOST),
            self._number(row, "size", 2**63),
            self._digest_of(row, "sha256"),
            self._digest_of(row, "probe") if row.get("probe") else "",
            pictures,
        )
        if pictures is not None and pictures.records != shard.records:
            self._refuse(
                _lacks(
                    f"{shard.name} has {shard.records} records and "
                    f"{pictures.records} pictures"
                )
            )
        return shard

    def _check(self, manifest: Manifest) -> None:
        names = [*manifest.files, FILE]
        for split, shards in manifest.splits.items():
            if sum(shard.records for shard in shards) > _MOST:
                self._refuse(_lacks(f"too many records in {split!r}"))
            names += [shard.name for shard in shards]
            names += [s.pictures.name for s in shards if s.pictures is not None]
        for name, digest in manifest.files.items():
            self._name(name)
            self._digest_of({name: digest}, name)
        if len(set(names)) != len(names):
            self._refuse(_lacks("it names a file twice"))
        for entry in manifest.rejected:
            if not all(isinstance(value, str) for value in entry.values()):
                self._refuse(_lacks("'rejected' holds other things than texts"))
        made = manifest.provenance
        if "tokenizer_id" in made:
            self._check_codes(made)

    def _check_codes(self, made: Mapping[str, object]) -> None:
        """Refuses a data set of codes that does not say what they were made of."""
        side, color = made.get("image_size"), made.get("background")
        codebook = made.get("codebook", [1, 1])
        if not _are_counts([side], 1):
            self._refuse(_lacks("'image_size' of codes"))
        if not isinstance(color, list) or len(color) != 3 or not _are_counts(color, 0):
            self._refuse(_lacks("'background' of codes"))
        if (
            not isinstance(codebook, list)
            or len(codebook) != 2
            or not _are_counts(codebook, 1)
        ):
            self._refuse(_lacks("'codebook' of codes"))

    def _group(self, data: Fields, key: str, inner: type[T]) -> dict[str, T]:
        value = data.get(key)
        if not isinstance(value, dict) or not all(
            isinstance(entry, inner) for entry in value.values()
        ):
            self._refuse(_lacks(f"{key!r}"))
        return value

    def _rows(
        self, data: Fields, key: str, inner: type[T], absent: object = None
    ) -> list[T]:
        value = data.get(key, absent)
        if not isinstance(value, list | tuple) or not all(
            isinstance(entry, inner) for entry in value
        ):
            self._refuse(_lacks(f"{key!r}"))
        return list(value)

    def _policy(self, data: dict[str, Any]) -> Policy:
        policy = data.get("image_policy", POLICIES[0])
        if policy not in POLICIES:
            self._refuse(_lacks(f"'image_policy' is {policy!r}"))
        return policy

    def _name(self, value: object) -> str:
        """A file's name, in the directory itself."""
        if (
            not isinstance(value, str)
            or value in ("", ".", "..")
            or "/" in value
            or "\0" in value
        ):
            self._refuse(_lacks(f"{value!r} is no name of a file"))
        return value

    def _number(self, row: Fields, key: str, most: int) -> int:
        value = row.get(key)
        if not isinstance(value, int) or not _are_counts([value], 0) or value > most:
            self._refuse(_lacks(f"{key!r} of a shard is no count"))
        return value

    def _digest_of(self, row: Fields, key: str) -> str:
        value = row.get(key)
        if not isinstance(value, str) or not _DIGEST.fullmatch(value):
            self._refuse(_lacks(f"{key!r} is no SHA-256"))
        return value

    def _refuse(self, what: str) -> NoReturn:
        shown = what if len(what) <= 200 else what[:199] + "…"
        raise ManifestError(
            f"{self._path} {shown}; copy it again or prepare the data again with "
            "--overwrite"
        )


def _lacks(what: str) -> str:
    return f"lacks what a manifest holds ({what})"


def _are_counts(values: list[object], least: int) -> bool:
    return all(
        isinstance(value, int) and not isinstance(value, bool) and value >= least
        for value in values
    )


def file_digest(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
