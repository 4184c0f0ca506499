"""Where the codes of an image stand among its tokens, fixed before decoding.

After BOI comes `[size h][size w]` (if the model has size tokens), then each row of
codes followed by a newline, then EOI. Which token is forced and which are allowed
depends on the step alone, so the whole constraint is an array that a jitted loop scans
over (the logits processors of UniToken's released sampler, as data).
"""

import dataclasses

import jax
import numpy as np

from data_pipelines.tokenizers.chameleon import ChameleonVocabulary


@dataclasses.dataclass(frozen=True)
class ImageLayout:
    """The tokens of one image after its BOI, step by step.

    Attributes:
        grid: Rows and columns of codes.
        forced: int32 [steps]; the token that must stand at a step, −1 where a code is
            drawn. The last step is EOI.
        code_ids: int32 [num_codes]; the token id of each VQ index.
        size: Number of ids in the vocabulary, V.
    """

    grid: tuple[int, int]
    forced: np.ndarray
    code_ids: np.ndarray
    size: int

    @property
    def allowed(self) -> np.ndarray:
        """Mask of the tokens that may be drawn, bool [V]: image codes only."""
        mask = np.zeros(self.size, bool)
        mask[self.code_ids] = True
        return mask

    @property
    def drawn(self) -> np.ndarray:
        """The steps at which a code is drawn, int [rows · columns], in raster order."""
        return np.flatnonzero(self.forced < 0)

    def codes(self, tokens: np.ndarray | jax.Array) -> np.ndarray:
        """Read the VQ indices out of drawn tokens.

        Args:
            tokens: Token ids after BOI, int [..., at least up to the last code].

        Returns:
            VQ indices, int32 [..., rows, columns].

        Raises:
            ValueError: If something other than a code stands where a code belongs.
        """
        tokens = np.asarray(tokens)
        index = np.full(self.size, -1, np.int32)
        index[self.code_ids] = np.arange(len(self.code_ids), dtype=np.int32)
        codes = index[tokens[..., self.drawn]]
        if (codes < 0).any():
            raise ValueError(
                "a picture's tokens hold something other than image codes where the "
                f"layout of {self.grid[0]}×{self.grid[1]} codes expects codes"
            )
        # [..., rows · columns] → [..., rows, columns]
        return codes.reshape(*tokens.shape[:-1], *self.grid)

    def tokens(self, codes: np.ndarray) -> np.ndarray:
        """Lay VQ indices [..., rows, columns] out as tokens, int32 [..., steps]."""
        tokens = np.broadcast_to(
            self.forced, (*codes.shape[:-2], len(self.forced))
        ).copy()
        # [..., rows, columns] → [..., rows · columns]
        tokens[..., self.drawn] = self.code_ids[codes].reshape(*codes.shape[:-2], -1)
        return tokens


def image_layout(
    vocabulary: ChameleonVocabulary,
    rows: int,
    columns: int,
    sizes: tuple[int, int] | None = None,
) -> ImageLayout:
    """Lay out an image of rows × columns codes.

    Args:
        vocabulary: Names the special tokens and the codes.
        rows: Rows of codes.
        columns: Codes a row.
        sizes: Height and width in grids of 32 pixels for the two size tokens, or None
            for a model without size tokens.

    Returns:
        The layout; `len(forced)` is `2·[sizes] + rows · (columns + 1) + 1`.

    Raises:
        ValueError: If rows or columns is not positive.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a picture of {rows}×{columns} codes cannot be laid out")
    head = [] if sizes is None else [vocabulary.size_token(n) for n in sizes]
    row = [-1] * columns + [vocabulary.newline]
    return ImageLayout(
        grid=(rows, columns),
        forced=np.array([*head, *row * rows, vocabulary.eoi], np.int32),
        code_ids=np.asarray(vocabulary.code_ids, np.int32),
        size=vocabulary.size,
    )
