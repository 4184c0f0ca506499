"""Samples in rows of one length: which share a row, and the arrays of a row.

Rows are planned once, over lengths alone: best-fit decreasing within windows of a
seeded shuffle. The plan is a fixed grouping in
which every sample stands exactly once, so that packed rows can be read at random and a
position in the stream stays one integer. Numpy only.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

IGNORE = -1  # label of a position without loss
NO_FEATURE = -1  # feature index of a position that is a token
_FILL = {  # behind the samples of a row
    "tokens": 0,
    "segment_ids": 0,
    "positions": 0,
    "targets": IGNORE,
    "feature_index": NO_FEATURE,
}

WINDOW = 8192  # samples packed together; larger windows pack little better


@dataclass(frozen=True)
class PackingPlan:
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
) -> PackingPlan:
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
    samples: list[np.ndarray] = []
    widths: list[np.ndarray] = []
    for start in range(0, len(order), window):
        chosen = order[start : start + window]
        # Stable, so that samples of one length keep their shuffled order.
        chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
        rows = _best_fit(
            chosen.tolist(),
            lengths[chosen].tolist(),
            views[chosen].tolist(),
            row_length,
            row_views,
        )
        # Arrays, window by window: lists of all rows would take far more memory.
        samples += [np.fromiter(itertools.chain(*rows), np.int32, len(chosen))]
        widths += [np.fromiter(map(len, rows), np.int32, len(rows))]
    starts = np.concatenate([[0], *widths]).cumsum(dtype=np.int64)
    total = int(lengths.sum(dtype=np.int64))
    return PackingPlan(
        np.concatenate([np.zeros(0, np.int32), *samples]),
        starts,
        total / max(1, (len(starts) - 1) * row_length),
    )


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


class Sample(NamedTuple):
    """A sequence; three int32 arrays of one length, maybe one of places.

    tokens: ids, 0 at continuous positions and image tokens. labels: the id that is to
    be predicted *at* (not after) a position, or `IGNORE`. feature_index: index into the
    flattened features, or image tokens, of the sample's images, or `NO_FEATURE`.
    image_target_positions: the places whose next one is an image token with loss.
    """

    tokens: np.ndarray
    labels: np.ndarray
    feature_index: np.ndarray
    image_target_positions: np.ndarray = np.zeros(0, np.int32)


def shift_labels(labels: np.ndarray) -> np.ndarray:
    """Returns targets: at every position the label of the next, `IGNORE` at the end."""
    return np.append(labels[1:], np.int32(IGNORE))


def fill_row(
    samples: Sequence[Sample], row_length: int, features: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Lays samples one after the other into a row of T positions, padded behind.

    Args:
        samples: in their order.
        row_length: T.
        features: how many features the images of each sample have; those of samples
            before it come first. None need be given where no feature is indexed.

    Returns:
        tokens, segment_ids, positions, targets and feature_index, int32 [T].
    """
    row = {name: np.full(row_length, fill, np.int32) for name, fill in _FILL.items()}
    start, before = 0, 0
    for number, sample in enumerate(samples):
        place = slice(start, start + len(sample.tokens))
        index = sample.feature_index
        row["tokens"][place] = sample.tokens
        row["segment_ids"][place] = number + 1
        row["positions"][place] = np.arange(len(sample.tokens))
        row["targets"][place] = shift_labels(sample.labels)
        row["feature_index"][place] = np.where(
            index == NO_FEATURE, NO_FEATURE, index + before
        )
        start = place.stop
        before += features[number] if features else 0
    return row
