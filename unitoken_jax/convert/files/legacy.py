"""PyTorch files from before 1.6, read without PyTorch: a pickle, then plain numbers.

The pickle may name nothing but an ordered dict, float storages and the function that
puts a tensor together; ours stand in for the last two. Anything else is refused, so
that no code of the file's author runs.
"""

import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from unitoken_jax.convert.tensors import WeightsError

_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError)
_DAMAGE += (AttributeError, OverflowError, RecursionError, MemoryError)
_MAGIC = 0x1950A86A20F9469CFC6C


class _Tensor(NamedTuple):
    """Where the numbers of a tensor lie."""

    storage: str
    offset: int
    size: tuple[int, ...]


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict of float32 tensors.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    except _DAMAGE as error:
        raise WeightsError(
            f"{path} is no state dict of float tensors in PyTorch's old format"
            f" ({error})"
        ) from error


def _read(file: IO[bytes]) -> dict[str, np.ndarray]:
    if _Reader(file).load() != _MAGIC:
        raise ValueError("it does not begin with PyTorch's mark")
    _Reader(file).load()  # version of the format
    _Reader(file).load()  # sizes of types where it was written
    found = _Reader(file).load()
    if not isinstance(found, Mapping):
        raise TypeError("it holds no mapping")
    storages = {}
    for key in _Reader(file).load():
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(4 * count), "<f4")
    tensors = {k: v for k, v in found.items() if isinstance(v, _Tensor)}
    return {name: _take(tensor, storages) for name, tensor in tensors.items()}


def _take(tensor: _Tensor, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    count = int(np.prod(tensor.size, dtype=np.int64))
    numbers = storages[tensor.storage][tensor.offset : tensor.offset + count]
    return numbers.reshape(tensor.size)  # [count] → the tensor's shape


def _rebuild(storage: str, offset: int, size: tuple[int, ...], *rest: Any) -> _Tensor:
    stride = rest[0]
    contiguous = tuple(int(np.prod(size[i + 1 :])) for i in range(len(size)))
    if tuple(stride) != contiguous:
        raise ValueError("a tensor does not lie in one piece")
    return _Tensor(storage, offset, tuple(size))


class _Reader(pickle.Unpickler):
    """Knows three names and no others."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch.FloatStorage": "float32",
            "torch._utils._rebuild_tensor_v2": _rebuild,
        }
        full = f"{module}.{name}"
        if full not in known:
            raise pickle.UnpicklingError(f"it names {full}, which no weights need")
        return known[full]

    def persistent_load(self, pid: Any) -> str:
        return pid[2]
