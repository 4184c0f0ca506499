"""LlamaGen's published form of a data set: codes and labels as one .npy file an image.

A directory holds NAME_codes/ and NAME_labels/ with files of the same names. Codes are
[1, crops, K, L] for K codebooks (UniTok's fork) or [1, crops, L] for one; the ten crops
of an image are equally good. Labels are [1].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from data_pipelines.errors import DataError


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
    """The images of a directory by index, in the order of their numbers."""

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

    def close(self) -> None:
        """Nothing is open between reads."""


def _read(path: Path) -> np.ndarray:
    try:
        try:
            return np.load(path, allow_pickle=False)
        except OSError:  # once more: a file system may fail for a moment
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CodeFileError(f"{path} cannot be read ({error})") from error
