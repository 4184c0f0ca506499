"""Fréchet distance between two sets of features, taken as normal distributions.

|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), arXiv 1706.08500; with Inception's features it
is the FID. All in float64 on the host.
"""

import numpy as np

_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_LARGEST = 1024  # dimensions up to which distances are computed again and again


class Moments:
    """Mean and covariance of features that arrive in batches and are not kept.

    Chan, Golub & LeVeque 1983: batches are centered on their own mean before their
    squares are summed, so nothing cancels.
    """

    def __init__(self, size: int) -> None:
        """Begin with no features of `size` numbers each."""
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))

    def add(self, features: np.ndarray) -> None:
        """Take in features [B, D]."""
        features = np.asarray(features, np.float64)
        count = self.count + len(features)
        if not len(features):
            return
        mean = features.mean(0)
        centered, step = features - mean, mean - self.mean
        self._scatter += centered.T @ centered
        self._scatter += np.outer(step, step) * (self.count * len(features) / count)
        self.mean = self.mean + step * (len(features) / count)
        self.count = count

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], unbiased.

        Raises:
            ValueError: There are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(
                f"a covariance needs at least two pictures, not {self.count}"
            )
        return self._scatter / (self.count - 1)


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance of features [N, D]."""
    found = Moments(features.shape[1])
    found.add(features)
    return found


def distance(first: Moments, second: Moments) -> float:
    """Fréchet distance; symmetric, 0 for equal moments.

    The trace of the square root is the sum of the singular values of R₁ᵀ R₂ with
    Σ = R Rᵀ, which needs no square root of a product that is not symmetric.

    Raises:
        ValueError: One side has fewer than two features.
    """
    one, other = first.covariance, second.covariance
    product = _root(one).T @ _root(other)
    shared = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    step = first.mean - second.mean
    return max(0.0, float(step @ step + np.trace(one) + np.trace(other) - 2 * shared))


def _root(covariance: np.ndarray) -> np.ndarray:
    """R [D, r] with R Rᵀ = covariance; r is its rank."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def half_interval(
    first: np.ndarray, second: np.ndarray, resamples: int, seed: int
) -> float | None:
    """Half the width of the distance's 95 % interval, by the bootstrap.

    Samples that repeat make distances of resamples too large, so only the spread of
    these is used, not their place.

    Args:
        first: Features [N, D].
        second: Features [M, D].
        resamples: How many times both are drawn again.
        seed: Of the drawing.

    Returns:
        None if it would take too long: more than 1024 features of as many numbers.
    """
    first, second = _common_span(first, second)
    if first.shape[1] > _LARGEST or resamples < 2:
        return None
    rng = np.random.default_rng(seed)

    def draw(features: np.ndarray) -> Moments:
        return moments(features[rng.integers(0, len(features), len(features))])

    found = [distance(draw(first), draw(second)) for _ in range(resamples)]
    return _Z95 * float(np.std(found, ddof=1))


def _common_span(
    first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in the fewest dimensions that keep all distances within them."""
    both = np.concatenate([first, second]).astype(np.float64)
    both -= both.mean(0)
    if len(both) < both.shape[1]:
        left, values, _ = np.linalg.svd(both, full_matrices=False)
        both = left * values
    return both[: len(first)], both[len(first) :]
