"""Numbers that are not finite, found in weights of any type at the speed of memory."""

import jax.numpy as jnp
import numpy as np

_BLOCK = 2**20  # numbers looked at together; they stay in the cache
_EXPONENTS = {  # of types whose NaN and infinities have all these bits
    "float64": 0x7FF0_0000_0000_0000,
    "float32": 0x7F80_0000,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float8_e5m2": 0x7C,
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
