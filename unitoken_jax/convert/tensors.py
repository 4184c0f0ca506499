"""Tensors that have not been read, readers of our parameters, and numbers of no use."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import meta

from unitoken_jax.config import UserError
from unitoken_jax.convert.layouts import Shape

_BLOCK = 2**20  # numbers looked at together; they stay in the cache
_EXPONENTS = {  # of types whose NaN and infinities have all these bits
    "float64": 0x7FF0_0000_0000_0000,
    "float32": 0x7F80_0000,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float8_e5m2": 0x7C,
}


class WeightsError(UserError, ValueError):
    """Weights that do not fit the table or the model, said in a sentence."""


class Spec(NamedTuple):
    """Shape and type of a tensor that has not been read."""

    shape: Shape
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


class Reader(Protocol):
    """Our parameters, read slice by slice."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Shape and type of every parameter, by path."""
        ...

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        ...

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        ...


class TreeReader:
    """A nested dict of arrays as a `Reader`."""

    def __init__(self, params: Mapping[str, object]) -> None:
        self._leaves = flatten(params)

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and type of every parameter, by path."""
        return {
            path: Spec(tuple(leaf.shape), np.dtype(leaf.dtype))
            for path, leaf in self._leaves.items()
        }

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        return np.asarray(self._leaves[path][index])

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        del path
        return 0


def flatten(tree: Mapping[str, object]) -> dict[str, Any]:
    """A nested dict (leaves boxed or not) as `{'a/b/c': leaf}`."""
    leaves = traverse_util.flatten_dict(dict(tree), sep="/")
    return {
        path: leaf.value if isinstance(leaf, meta.Partitioned) else leaf  # pyright: ignore[reportAttributeAccessIssue]
        for path, leaf in leaves.items()
    }


def is_floating(dtype: np.dtype) -> bool:
    """Whether a type is one of floating point, bfloat16 and those of 8 bits too."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def unfinite(array: np.ndarray) -> str | None:
    """What of an array is no finite number: "3 NaN and 1 infinite"; None if all are."""
    if not is_floating(array.dtype) or _all_finite(array):
        return None
    wide = array.astype(np.float64)
    nan, infinite = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
    found = (f"{nan:,} NaN", f"{infinite:,} infinite")
    shown = [text for text, many in zip(found, (nan, infinite), strict=True) if many]
    return f"{' and '.join(shown)} of {array.size:,} numbers"


def _all_finite(array: np.ndarray) -> bool:
    mask = _EXPONENTS.get(array.dtype.name)
    if mask is None:
        return bool(np.isfinite(array.astype(np.float32)).all())
    # The bits as integers: types unknown to NumPy are slow otherwise.
    words = np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
    mask = words.dtype.type(mask)
    return not any(
        np.any((words[start : start + _BLOCK] & mask) == mask)
        for start in range(0, len(words), _BLOCK)
    )
