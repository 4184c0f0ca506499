"""Which samples share a row: planned once, over lengths alone.

Best-fit decreasing within windows of a seeded shuffle. The plan is a fixed grouping in
which every sample stands exactly once, so that packed rows can be read at random and a
position in the stream stays one integer. Numpy only.
"""

from dataclasses import dataclass

import numpy as np

WINDOW = 8192  # samples packed together; larger windows pack little better


@dataclass(frozen=True)
class Plan:
    """Samples grouped into rows.

    Attributes:
        samples: sample numbers, row after row, int32 [n].
        starts: where each row begins in `samples`, with the end; int64 [rows + 1].
        filled: share of the rows' positions that samples fill, 0 … 1.
    """

    samples: np.ndarray
    starts: np.ndarray
    filled: float

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.samples[self.starts[row] : self.starts[row + 1]]

    @property
    def widest(self) -> int:
        """The most samples of a row."""
        return int(np.diff(self.starts).max(initial=0))


def plan_rows(
    lengths: np.ndarray,
    views: np.ndarray,
    row_length: int,
    row_views: int,
    *,
    seed: int,
    window: int = WINDOW,
) -> Plan:
    """Groups samples into rows; nothing is lost and nothing stands twice.

    Args:
        lengths: positions each sample takes, int [n].
        views: views (tiles) each sample shows to the continuous encoder, int [n].
        row_length: T, the most positions of a row.
        row_views: I, the most views of a row.
        seed: of the shuffle that fills the windows.
        window: samples that are packed together.

    Raises:
        ValueError: a sample fits no row; callers set such samples aside before, by
            the name of their record.
    """
    misfits = (lengths > row_length) | (views > row_views) | (lengths < 1)
    if misfits.any():
        first = int(np.flatnonzero(misfits)[0])
        raise ValueError(
            f"sample {first} takes {lengths[first]} positions and {views[first]} "
            f"views; a row has {row_length} and {row_views}"
        )
    order = np.random.default_rng(seed).permutation(len(lengths)).astype(np.int32)
    rows: list[list[int]] = []
    for start in range(0, len(order), window):
        chosen = order[start : start + window]
        # Stable, so that samples of one length keep their shuffled order.
        chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
        rows += _best_fit(
            chosen.tolist(),
            lengths[chosen].tolist(),
            views[chosen].tolist(),
            row_length,
            row_views,
        )
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    samples = np.fromiter((s for row in rows for s in row), np.int32, len(lengths))
    total = int(lengths.sum(dtype=np.int64))
    return Plan(samples, starts, total / max(1, len(rows) * row_length))


def _best_fit(
    samples: list[int],
    lengths: list[int],
    views: list[int],
    row_length: int,
    row_views: int,
) -> list[list[int]]:
    """Puts each sample, in the order given, into the fullest row that can take it."""
    rows: list[list[int]] = []
    # open_rows[v][p]: rows with v views and p positions left. present[v] has bit p set
    # where there is such a row: the lowest set bit from p on is the best fit, found in
    # a few machine words however many rows are open.
    open_rows = [[[] for _ in range(row_length + 1)] for _ in range(row_views + 1)]
    present = [0] * (row_views + 1)
    for sample, length, shown in zip(samples, lengths, views, strict=True):
        room, at = row_length + 1, row_views
        for left in range(shown, row_views + 1):
            fits = present[left] >> length
            if fits:
                best = length + (fits & -fits).bit_length() - 1
                if best < room:
                    room, at = best, left
        if room > row_length:
            number, room = len(rows), row_length
            rows.append([])
        else:
            bucket = open_rows[at][room]
            number = bucket.pop()
            if not bucket:
                present[at] ^= 1 << room
        rows[number].append(sample)
        room, at = room - length, at - shown
        if room:
            if not open_rows[at][room]:
                present[at] |= 1 << room
            open_rows[at][room].append(number)
    return rows
