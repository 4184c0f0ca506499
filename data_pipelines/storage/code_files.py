"""LlamaGen's published form of a data set: codes and labels as one .npy file an image.

A directory holds NAME_codes/ and NAME_labels/ with files of the same names. Codes are
[1, crops, K, L] for K codebooks (UniTok's fork) or [1, crops, L] for one; the ten crops
of an image are equally good. Labels are [1].

Nothing says what such files should hold, unless `python -m data_pipelines.verify
--record` has written their digests beside them, in the format of sha256sum.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.storage.manifest import file_digest
from data_pipelines.storage.readers import unreachable
from unitoken_jax.files import replaced

SUMS = "digests.sha256"
_LOOKED_AT = 32  # images whose files are read at each start


class CodeFileError(DataError):
    """Files of another form, or missing; the message names them."""


class CodeFile(TypedDict):
    """One image: its file's name, codes int32 [crops, L, K] and label."""

    id: str
    codes: np.ndarray
    label: int


class _Folders(NamedTuple):
    codes: Path
    labels: Path


def find_code_files(directory: Path) -> _Folders | None:
    """The two folders in a directory, or None if it is no such data set.

    Raises:
        CodeFileError: There are several of a kind, or one without the other.
    """
    found = [sorted(directory.glob(f"*_{kind}")) for kind in ("codes", "labels")]
    if not any(found):
        return None
    if [len(paths) for paths in found] != [1, 1]:
        names = ", ".join(path.name for paths in found for path in paths)
        raise CodeFileError(
            f"{directory} must hold one folder *_codes and one *_labels; it has {names}"
        )
    return _Folders(found[0][0], found[1][0])


class CodeFiles(Sequence[CodeFile]):
    """The images of a directory by index, in the order of their numbers.

    Attributes:
        directory: That holds the two folders.
    """

    def __init__(self, directory: str | Path) -> None:
        """Lists the files.

        Raises:
            CodeFileError: There are none.
        """
        self.directory = Path(directory)
        folders = find_code_files(self.directory)
        if folders is None:
            raise CodeFileError(f"{directory} has no folders *_codes and *_labels")
        self._folders = folders
        names = [path.stem for path in folders.codes.glob("*.npy")]
        if not names:
            raise CodeFileError(f"{folders.codes} has no .npy files")
        # Published names are numbers: 10 follows 9.
        self._names = sorted(names, key=lambda name: (len(name), name))

    @property
    def sums(self) -> Path:
        """The file of digests, which may be there."""
        return self.directory / SUMS

    def paths(self) -> Iterator[Path]:
        """The files of every image: codes, then label."""
        for name in self._names:
            yield from self._files(name)

    def _files(self, name: str) -> tuple[Path, Path]:
        codes, labels = self._folders
        return codes / f"{name}.npy", labels / f"{name}.npy"

    @functools.cached_property
    def digest(self) -> str:
        """A SHA-256 of names, of a few images' files, and of the digests beside them.

        Raises:
            CodeFileError: One of those files was changed since they were written.
        """
        step = -(-len(self._names) // _LOOKED_AT)
        paths = [p for name in self._names[::step] for p in self._files(name)]
        found = {self._relative(path): _digest_or_none(path) for path in paths}
        for path, wanted in read_sums(self.directory):
            if found.get(path, wanted) != wanted:
                raise CodeFileError(
                    f"{self.directory / path} does not have the digest of {SUMS}: it "
                    "is missing or its contents were changed; copy it again"
                )
        digest = hashlib.sha256("\n".join(self._names).encode())
        digest.update(repr(sorted(found.items())).encode())
        if self.sums.exists():
            digest.update(file_digest(self.sums).encode())
        return digest.hexdigest()

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()

    def record(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Writes the digests of all files beside them.

        Args:
            progress: Called with numbers of files as they are read.

        Raises:
            CodeFileError: One cannot be read.
        """
        try:
            with replaced(self.sums) as partial, partial.open("w") as sums:
                for path in self.paths():
                    sums.write(f"{file_digest(path)}  {self._relative(path)}\n")
                    progress(1)
        except OSError as error:
            raise unreachable(Path(error.filename or self.sums), error) from error

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> CodeFile:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One image.

        Raises:
            CodeFileError: Its files are missing, damaged or of another shape.
        """
        name = self._names[index]
        path = self._folders.codes / f"{name}.npy"
        codes, label = _read(path), _read(self._folders.labels / f"{name}.npy")
        if codes.ndim == 3:
            codes = codes[:, :, None]  # one codebook
        is_label = label.size == 1 and np.issubdtype(label.dtype, np.integer)
        if codes.ndim != 4 or len(codes) != 1 or not is_label or not codes.size:
            raise CodeFileError(
                f"{path} holds codes of shape {list(codes.shape)} and a label of shape "
                f"{list(label.shape)}; codes must be [1, crops, codebooks, tokens] and "
                "the label one integer"
            )
        if not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
            raise CodeFileError(f"{path} holds values that are no codes")
        crops = codes[0].swapaxes(1, 2).astype(np.int32)  # [crops, L, K]
        return {"id": name, "codes": crops, "label": int(label.item())}

    @property
    def partly_verified(self) -> bool:
        """Whether there are digests that not all files were compared with."""
        return self.sums.exists()

    def unverified(self) -> Iterator[tuple[Path, str]]:
        """The files with the digests beside them."""
        for name, digest in read_sums(self.directory):
            yield self.directory / name, digest

    def close(self) -> None:
        """Nothing is open between reads."""


def read_sums(directory: Path) -> Iterator[tuple[str, str]]:
    """The digests beside published code files: (path in the directory, SHA-256).

    Raises:
        CodeFileError: The file that lists them cannot be read.
    """
    path = directory / SUMS
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8") as sums:
            for number, line in enumerate(sums, 1):
                digest, _, name = line.rstrip("\n").partition("  ")
                if len(digest) != 64 or not name:
                    raise CodeFileError(
                        f"{path}, line {number} is no digest of a file; remove the "
                        "file, and write it again by python -m data_pipelines.verify "
                        f"--input {directory} --record"
                    )
                yield name, digest
    except (OSError, UnicodeDecodeError) as error:
        raise CodeFileError(f"{path} cannot be read ({error})") from error


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None  # the image is set aside when it is asked for


def _read(path: Path) -> np.ndarray:
    try:
        try:
            return np.load(path, allow_pickle=False)
        except OSError:  # once more: a file system may fail for a moment
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CodeFileError(f"{path} cannot be read ({error})") from error
