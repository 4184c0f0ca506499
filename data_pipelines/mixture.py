"""Which component gives which element of a mixed stream, exactly and at random access.

Grain's own weights are cut to about a hundredth; ratios of training data are held
exactly here, with integers, so that 1 : 1 is 1 : 1 at every epoch.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import grain

# More elements than anyone draws. Grain divides lengths as floats, so that the largest
# integer would come out one too large.
ENDLESS = 2**60


class Mixture(grain.transforms.DatasetSelectionMap):
    """Interleaves endless components in proportion to integer weights.

    Of the first k elements the first component gives ⌈k·w₀/W⌉, and the others share
    the rest in the same way, so that every prefix of the stream is mixed.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        """Keeps `weights`, one positive integer a component."""
        if not weights or min(weights) < 1:
            raise ValueError(f"weights must be positive integers, not {weights}")
        divisor = math.gcd(*weights)
        self._weights = tuple(weight // divisor for weight in weights)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Returns (component, position within the component) of element `index`."""
        # Elements `before` and up to and with this one that the components not yet
        # looked at share.
        before, through = index, index + 1
        remaining = sum(self._weights)
        last = len(self._weights) - 1
        for component, weight in enumerate(self._weights[:-1]):
            rest_before = before * (remaining - weight) // remaining
            rest_through = through * (remaining - weight) // remaining
            if rest_before == rest_through:
                return component, before - rest_before
            before, through, remaining = rest_before, rest_through, remaining - weight
        return last, before


def row_weights(
    ratios: Sequence[float], samples: Sequence[int], rows: Sequence[int]
) -> list[int]:
    """Returns the weights of components of rows that mix their samples by `ratios`.

    Args:
        ratios: wanted samples of each component, relative to each other. Decimal
            fractions are meant as written: 0.1 is a tenth.
        samples: how many samples each component has.
        rows: how many rows they fill; pass `samples` if an element is a sample.

    Returns:
        Integers such that, over whole epochs of the components, their samples are in
        the proportion of `ratios` exactly.

    Raises:
        ValueError: a ratio is not positive and finite.
    """
    for ratio in ratios:
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"a ratio must be positive and finite, not {ratio}")
    shares = [
        Fraction(str(ratio)) * Fraction(row, sample)
        for ratio, sample, row in zip(ratios, samples, rows, strict=True)
    ]
    denominator = math.lcm(*(share.denominator for share in shares))
    return [int(share * denominator) for share in shares]
