"""Inception score (arXiv 1606.03498): are images clear each and varied together?

The exponential of the mean divergence of p(class | image) from p(class): 1 where every
image looks alike to the network, the number of classes where each is clear and all are
equally frequent.
"""

import itertools

import numpy as np


def scores(logits: np.ndarray, splits: int = 10, seed: int = 2020) -> np.ndarray:
    """Return the score of each split.

    Splits and their order are torch-fidelity's, so that the mean over them is too.

    Args:
        logits: Logits of each image's classes, [N, C].
        splits: Into how many parts the images are divided.
        seed: Seed of the order in which they are divided.

    Returns:
        float64 [splits].

    Raises:
        ValueError: There are fewer pictures than splits.
    """
    count = len(logits)
    if count < splits:
        raise ValueError(
            f"{count} pictures cannot be divided into {splits} splits; take more "
            "pictures or fewer splits"
        )
    # The published order comes from NumPy's old generator.
    order = np.random.RandomState(seed).permutation(count)
    bounds = [i * count // splits for i in range(splits + 1)]
    return np.array(
        [_score(logits[order[start:end]]) for start, end in itertools.pairwise(bounds)]
    )


def _score(logits: np.ndarray) -> float:
    """Return the score of one split, from logits [N, C]."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # [N, C]
    p = np.exp(log_p)
    divergence = (p * (log_p - np.log(p.mean(0)))).sum(1)  # [N, C] → [N]
    return float(np.exp(divergence.mean()))
