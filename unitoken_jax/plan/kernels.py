"""What splash attention's kernels cost: they come without an estimate of libtpu's.

Bundles of the static schedules that libtpu prints for blocks of 512 by 512 and heads of
128 (bfloat16, with segment ids); other blocks are scaled by their area. Counted, not
measured. Any other kernel is not priced, and said so.

Where two cores of a chip work as one, each takes half of a dimension of the grid that
is declared parallel. In the forward kernel these are rows and heads; the gradients'
declare none, so that only the rows, which `vmap` adds, are shared: with one row to a
chip, one core does it all.
"""

import math
import re
from typing import NamedTuple

from unitoken_jax.parallel.chips import Chip
from unitoken_jax.plan.hlo import Instruction

_NAME = re.compile(r"splash_m[hq]a_(fwd|dq|dkv)")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_BLOCK = 512
_HEAD = 128


class Bundles(NamedTuple):
    """Cycles of a grid step, of one computed block, of a row's first and last block."""

    step: int
    block: int
    row: int


_V5P = {
    "fwd": Bundles(443, 1159, 708),
    "dq": Bundles(299, 1536, 198),
    "dkv": Bundles(307, 2048, 375),
}
_BUNDLES = {
    "v4": _V5P,  # not counted for v4 itself
    "v5p": _V5P,
    "v5e": {
        "fwd": Bundles(206, 1187, 723),
        "dq": Bundles(176, 1536, 203),
        "dkv": Bundles(108, 2048, 383),
    },
    "v6e": {
        "fwd": Bundles(276, 933, 362),
        "dq": Bundles(170, 1083, 130),
        "dkv": Bundles(208, 1313, 222),
    },
}
_CORES = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}
_FIELDS = {
    "fwd": ("block_q", "block_kv"),
    "dq": ("block_q_dq", "block_kv_dq"),
    "dkv": ("block_q_dkv", "block_kv_dkv"),
}
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}  # matrix products of every block


class Kernel(NamedTuple):
    """One call of an attention kernel.

    Attributes:
        name: 'fwd', 'dq' or 'dkv'.
        shape: rows, heads, queries, keys and width of a head, padding included.
        blocks: tile along queries and keys.
        causal: whether blocks above the diagonal are left out.
    """

    name: str
    shape: tuple[int, int, int, int, int]
    blocks: tuple[int, int]
    causal: bool

    @property
    def computed(self) -> int:
        """Blocks that are computed, of one head.

        Of a causal kernel with fewer queries than keys, those of the last shard of the
        queries, which all others wait for.
        """
        queries, keys = self._grid
        if not self.causal:
            return queries * keys
        high, wide = self.blocks
        before = max(0, self.shape[3] - self.shape[2])
        return sum(
            min(keys, math.ceil((before + (row + 1) * high) / wide))
            for row in range(queries)
        )

    @property
    def flops(self) -> float:
        """Of the matrix products, whole blocks."""
        rows, heads, _, _, width = self.shape
        pairs = rows * heads * self.computed * math.prod(self.blocks)
        return 2.0 * _PRODUCTS[self.name] * pairs * width

    def cycles(self, chip: Chip) -> float:
        """Predicted cycles on a chip."""
        bundles = _BUNDLES[chip.name][self.name]
        rows, heads, _, _, width = self.shape
        queries, keys = self._grid
        area = math.prod(self.blocks) / _BLOCK**2 * width / _HEAD
        outer = keys if self.name == "dkv" else queries
        tall = self.blocks[self.name == "dkv"] / _BLOCK * width / _HEAD
        one = (
            queries * keys * bundles.step
            + self.computed * bundles.block * area
            + outer * bundles.row * tall
        )
        return rows * heads * one * self._share(_CORES[chip.name])

    def _share(self, cores: int) -> float:
        """Return the share of the work that the core with the most of it does."""
        rows, heads, *_ = self.shape
        parallel = (rows, heads) if self.name == "fwd" else (rows,)
        return min(math.ceil(size / cores) / size for size in parallel)

    @property
    def _grid(self) -> tuple[int, int]:
        _, _, queries, keys, _ = self.shape
        return math.ceil(queries / self.blocks[0]), math.ceil(keys / self.blocks[1])


def read(instruction: Instruction) -> Kernel | None:
    """The attention kernel that a custom call is, or None if it is another one."""
    match = _NAME.search(instruction.name) or _NAME.search(instruction.op_name)
    constraints = re.search(
        r"operand_layout_constraints=\{(.*?)\}(?:, [a-z_]+=|$)",
        instruction.attributes,
        re.DOTALL,
    )
    if match is None or constraints is None:
        return None
    shapes = [
        (dtype, tuple(int(size) for size in dims.split(",") if size))
        for dtype, dims in _SHAPE.findall(constraints[1])
    ]
    large = [dims for dtype, dims in shapes if dtype in ("bf16", "f32") and dims]
    query, key = (dims for dims in large[:2])
    name = match[1]
    blocks = [_field(instruction.attributes, field) for field in _FIELDS[name]]
    rows = math.prod(query[:-3])
    shape = (rows, query[-3], query[-2], key[-2], query[-1])
    # A causal mask is computed in the kernel, from one more table of places.
    tables = sum(dtype == "s32" and len(dims) > 1 for dtype, dims in shapes)
    causal = tables > (2 if "segmented" in instruction.name else 0)
    return Kernel(name, shape, (blocks[0], blocks[1]), causal)


def _field(attributes: str, name: str) -> int:
    match = re.search(rf'\\?"{name}\\?": (\d+)', attributes)
    return int(match[1]) if match else _BLOCK
