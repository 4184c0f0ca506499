"""Named, reversible layouts of one tensor: the published axis order ↔ ours.

PyTorch stores a linear map as (out, in) and a convolution as OIHW; Flax as [in, out]
and HWIO, and our attention kernels keep heads apart. Every layout only moves numbers,
so that both directions are bit-exact. NumPy alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Shape = tuple[int, ...]
_BLOCK = 256  # rows and columns of a block that fits the cache


class LayoutError(ValueError):
    """A tensor that a layout cannot represent exactly."""


@dataclass(frozen=True)
class Layout:
    """How one published tensor becomes one or several of ours, and back.

    Attributes:
        name: for documents and messages, such as ``LINEAR`` or ``split(HEADS_IN)``.
        text: the change of axes, such as ``(out, in) → [in, out]``.
        to_ours: (published tensor, shapes of our tensors) → our tensors. The sizes
          that the published shape does not tell (heads) come from our shapes.
        to_theirs: our tensors → the published tensor.
    """

    name: str
    text: str
    to_ours: Callable[[np.ndarray, Sequence[Shape]], tuple[np.ndarray, ...]] = field(
        repr=False
    )
    to_theirs: Callable[[Sequence[np.ndarray]], np.ndarray] = field(repr=False)

    def published_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the published tensor that becomes ours of these `shapes`."""
        blank = np.zeros((), np.bool_)
        return self.to_theirs([np.broadcast_to(blank, shape) for shape in shapes]).shape


def contiguous(array: np.ndarray) -> np.ndarray:
    """A C-ordered array of the same numbers, a copy if need be.

    Large matrices are transposed block by block, which NumPy's own copy does ten times
    slower (every element of it is another cache line).
    """
    if array.ndim != 2 or array.size < _BLOCK**2 or array.flags.c_contiguous:
        return np.asarray(array, order="C")
    moved = np.empty(array.shape, array.dtype)
    # Types unknown to NumPy (bfloat16) move as plain words.
    words = np.dtype(f"u{array.itemsize}")
    source, target = array.view(words), moved.view(words)
    for row in range(0, array.shape[0], _BLOCK):
        for column in range(0, array.shape[1], _BLOCK):
            block = np.s_[row : row + _BLOCK, column : column + _BLOCK]
            target[block] = source[block]
    return moved


def _one(
    name: str,
    text: str,
    to_ours: Callable[[np.ndarray, Shape], np.ndarray],
    to_theirs: Callable[[np.ndarray], np.ndarray],
) -> Layout:
    """A layout of one published tensor and one of ours."""
    return Layout(
        name,
        text,
        lambda array, shapes: (to_ours(array, shapes[0]),),
        lambda arrays: to_theirs(arrays[0]),
    )


def transpose(*axes: int, name: str = "", text: str = "") -> Layout:
    """Our axis i is the published axis `axes[i]`."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return _one(
        name or f"transpose{axes}",
        text or f"axes {axes}",
        lambda array, _: array.transpose(axes),  # published → ours
        lambda array: array.transpose(back),  # ours → published
    )


def squeeze(*axes: int) -> Layout:
    """The published tensor has these axes of length 1; ours does not."""
    return _one(
        f"squeeze{axes}",
        f"without the unit axes {axes}",
        lambda array, _: np.squeeze(array, axes),
        lambda array: np.expand_dims(array, axes),
    )


def expand(*axes: int) -> Layout:
    """Our tensor has these axes of length 1; the published one does not."""
    return _one(
        f"expand{axes}",
        f"with the unit axes {axes}",
        lambda array, _: np.expand_dims(array, axes),
        lambda array: np.squeeze(array, axes),
    )


SAME = _one("SAME", "unchanged", lambda array, _: array, lambda array: array)
LINEAR = transpose(1, 0, name="LINEAR", text="(out, in) → [in, out]")
CONV = transpose(2, 3, 1, 0, name="CONV", text="(out, in, h, w) → [h, w, in, out]")
CONV1D = transpose(2, 1, 0, name="CONV1D", text="(out, in, k) → [k, in, out]")
DEPTHWISE = transpose(
    2, 3, 1, 0, name="DEPTHWISE", text="(channels, 1, h, w) → [h, w, 1, channels]"
)
POINTWISE = _one(
    "POINTWISE",
    "(out, in, 1, 1) → [in, out]",
    lambda array, _: array[:, :, 0, 0].T,
    lambda array: array.T[:, :, None, None],
)
HEADS_IN = _one(
    "HEADS_IN",
    "(heads·size, width) → [width, heads, size]",
    # [N·H, D] → [D, N·H] → [D, N, H]
    lambda array, shape: contiguous(array.T).reshape(shape),
    # [D, N, H] → [D, N·H] → [N·H, D]
    lambda array: array.reshape(array.shape[0], -1).T,
)
HEADS_OUT = _one(
    "HEADS_OUT",
    "(width, heads·size) → [heads, size, width]",
    # [D, N·H] → [N·H, D] → [N, H, D]
    lambda array, shape: contiguous(array.T).reshape(shape),
    # [N, H, D] → [N·H, D] → [D, N·H]
    lambda array: array.reshape(-1, array.shape[-1]).T,
)
HEADS_BIAS = _one(
    "HEADS_BIAS",
    "(heads·size) → [heads, size]",
    lambda array, shape: array.reshape(shape),  # [N·H] → [N, H]
    lambda array: array.reshape(-1),  # [N, H] → [N·H]
)


def split(part: Layout) -> Layout:
    """A tensor packed on its first axis: our tensors in order, each laid out by `part`.

    The usual case is a fused query-key-value projection. The parts may differ in size
    (grouped-query heads).
    """

    def to_ours(array: np.ndarray, shapes: Sequence[Shape]) -> tuple[np.ndarray, ...]:
        sizes = [part.published_shape([shape])[0] for shape in shapes]
        pieces = np.split(array, np.cumsum(sizes)[:-1], axis=0)
        return tuple(
            part.to_ours(piece, [shape])[0]
            for piece, shape in zip(pieces, shapes, strict=True)
        )

    def to_theirs(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.to_theirs([array]) for array in arrays], axis=0)

    return Layout(
        f"split({part.name})",
        f"packed on the first axis, each part {part.text}",
        to_ours,
        to_theirs,
    )


def repeated_rows(rows: int) -> Layout:
    """The published tensor repeats each of our rows so that there are `rows` of them.

    Hugging Face stores one QK-norm vector per head, the published UniToken one per
    model-parallel shard, `rows // shards` heads sharing it. Rows that should be equal
    and are not are refused: they were fine-tuned apart.
    """

    def to_ours(array: np.ndarray, shape: Shape) -> np.ndarray:
        groups = array.reshape(shape[0], -1, *shape[1:])  # [N, H] → [S, N/S, H]
        if not (groups == groups[:, :1]).all():
            raise LayoutError(
                f"the {rows} rows should be {shape[0]} vector(s), each repeated, but"
                " rows of one group differ (they were fine-tuned apart); load with"
                f" model_parallel_size={rows}, which keeps every row"
            )
        return groups[:, 0]

    def to_theirs(array: np.ndarray) -> np.ndarray:
        return np.repeat(array, rows // array.shape[0], axis=0)

    return _one(
        f"repeated_rows({rows})", f"({rows}, size) → [shards, size]", to_ours, to_theirs
    )


def rotary_halves(size: int, axis: int = 0) -> Layout:
    """Rotary pairs next to each other (Meta) → in the two halves of a head (ours).

    Along `axis`, each run of `size` numbers is one head: element 2i goes to i, element
    2i + 1 to size/2 + i.
    """

    def regroup(array: np.ndarray, inner: tuple[int, int]) -> np.ndarray:
        place = axis % array.ndim
        shape = array.shape
        # [.., N·H, ..] → [.., N, H/2, 2, ..], or [.., N, 2, H/2, ..] on the way back
        pairs = contiguous(array).reshape(
            *shape[:place], -1, *inner, *shape[place + 1 :]
        )
        # The inner two change places, and all three are one axis again.
        return pairs.swapaxes(place + 1, place + 2).reshape(shape)  # [.., N·H, ..]

    return _one(
        f"rotary_halves({size})" if axis == 0 else f"rotary_halves({size}, {axis})",
        f"interleaved pairs → halves in each head of {size} on axis {axis}",
        lambda array, _: regroup(array, (size // 2, 2)),
        lambda array: regroup(array, (2, size // 2)),
    )


def chain(*layouts: Layout) -> Layout:
    """Several layouts, one after the other, from theirs to ours."""
    first, *rest = layouts
    if not rest:
        return first
    after = chain(*rest)

    def to_ours(array: np.ndarray, shapes: Sequence[Shape]) -> tuple[np.ndarray, ...]:
        middle = after.published_shape(shapes)
        return after.to_ours(first.to_ours(array, [middle])[0], shapes)

    return Layout(
        f"{first.name}, {after.name}",
        f"{first.text}, then {after.text}",
        to_ours,
        lambda arrays: first.to_theirs([after.to_theirs(arrays)]),
    )
