"""What a file is that is not what its name says: said from its first bytes."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unitoken_jax.convert.tensors import WeightsError

_LFS = b"version https://git-lfs.github.com/spec/"
_BEGINNINGS = (
    (b"\x1f\x8b", "is compressed with gzip; decompress it first"),
    (b"\x89HDF", "is an HDF5 file, of Keras or TensorFlow"),
    (b"\x93NUMPY", "is a NumPy array and no set of tensors"),
    (b"GGUF", "is a GGUF file of llama.cpp, whose numbers are quantized"),
    (b"7z\xbc\xaf", "is a 7-Zip archive; unpack it first"),
    (b"BZh", "is compressed with bzip2; decompress it first"),
    (b"\xfd7zXZ", "is compressed with xz; decompress it first"),
)
_HEAD = 512


def look(path: Path) -> bytes:
    """The first bytes of a weight file, which is one as far as they tell.

    Raises:
        WeightsError: it is empty, no regular file, a pointer, a web page or an archive.
    """
    with reading(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is no regular file; give a weight file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    if not head.strip(b"\0"):
        kind = "is empty" if not head else "begins with zeros only"
        raise WeightsError(f"{path} {kind}; download it again")
    if head.startswith(_LFS):
        raise WeightsError(
            f"{path} is a pointer of git-lfs and not the file itself; run `git lfs"
            " pull` in its repository, or download the file"
        )
    for beginning, text in _BEGINNINGS:
        if head.startswith(beginning):
            raise WeightsError(f"{path} {text}")
    if head[257:262] == b"ustar":
        raise WeightsError(
            f"{path} is a tar archive (PyTorch wrote such files before 0.1.10); unpack"
            " it, or save it again with a PyTorch of today"
        )
    if shown := _words(head):
        page = shown.lstrip("\ufeff \r\n\t").startswith(("<", "{", "["))
        kind = "a web page or a message" if page else "text"
        raise WeightsError(
            f"{path} holds {kind} ({shown[:40]!r}…) and no weights: the download failed"
            " or needs a login; download it again"
        )
    return head


def _words(head: bytes) -> str:
    """The head as text if it is nothing else."""
    try:
        # The last letter may be cut through.
        text = head.decode("utf-8-sig", "strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return ""
    control = sum(letter < " " and letter not in "\r\n\t" for letter in text)
    return "" if control or len(text) < len(head) // 2 else text


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says against reading a file into a sentence."""
    try:
        yield
    except FileNotFoundError as fault:
        raise WeightsError(
            f"{path} does not exist; give a weight file or its folder"
        ) from fault
    except OSError as fault:
        why = fault.strerror or str(fault)
        if fault.errno == errno.ELOOP:
            why = "its symbolic links lead in a circle"
        raise WeightsError(f"{path} cannot be read: {why}") from fault
