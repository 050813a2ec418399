"""From the values that a tensor takes to the range that its 8-bit grid covers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.calibration.activation_statistics import TensorStatistics

METHODS = ("minmax", "entropy", "percentile")
DEFAULT_PERCENTILE = 99.99

INT8_LEVELS = 128
"""Magnitudes of a symmetric int8 grid, as the entropy method counts them."""

ENTROPY_STEP = 16
"""Bins between two ranges that the entropy method tries: the divergence is smooth."""


@dataclass(frozen=True)
class RangeMethod:
    """How a range is chosen.

    Attributes:
        name: "minmax" covers every value; "entropy" cuts off what costs least information
            (Kullback-Leibler divergence, as TensorRT's calibrator did); "percentile" cuts off a share
            at either end.
        percentile: where "percentile" cuts, in (50, 100]: 99.99 leaves out the greatest 0.01 % of the
            values and the least 0.01 %.
    """

    name: str = "minmax"
    percentile: float = DEFAULT_PERCENTILE

    def __post_init__(self) -> None:
        """Check both."""
        if self.name not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.name!r}.")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile}.")


def select_range(statistics: TensorStatistics, method: RangeMethod) -> tuple[float, float]:
    """The range (low, high) that a tensor's grid is to cover; low <= 0 <= high.

    Args:
        statistics: of the tensor, with histogram.
        method: how to choose.

    Returns:
        Within the tensor's own range, zero included, so that zero is on the grid.
    """
    low, high = statistics.minimum, statistics.maximum
    if method.name == "percentile":
        low, high = _percentile_range(statistics, method.percentile)
    elif method.name == "entropy":
        largest = _entropy_magnitude(statistics)
        low, high = max(low, -largest), min(high, largest)
    return min(low, 0.0), max(high, 0.0)


def _percentile_range(statistics: TensorStatistics, percentile: float) -> tuple[float, float]:
    tail = (100.0 - percentile) / 100.0
    cumulated = np.cumsum(statistics.counts) / statistics.counts.sum()
    edges = np.linspace(statistics.minimum, statistics.maximum, len(cumulated) + 1)
    first = int(np.searchsorted(cumulated, tail, side="right"))
    last = int(np.searchsorted(cumulated, 1.0 - tail, side="left"))
    return float(edges[first]), float(edges[min(last + 1, len(cumulated))])


def _entropy_magnitude(statistics: TensorStatistics) -> float:
    """The magnitude beyond which clipping loses least: minimum of the divergence over cut-offs."""
    counts = _magnitude_counts(statistics)
    width = statistics.max_abs / len(counts)
    best, best_divergence = len(counts), np.inf
    for end in (*range(INT8_LEVELS, len(counts), ENTROPY_STEP), len(counts)):
        divergence = _divergence(counts, end)
        if divergence < best_divergence:
            best, best_divergence = end, divergence
    return best * width


def _magnitude_counts(statistics: TensorStatistics) -> npt.NDArray[np.float64]:
    """Histogram of |x| over [0, max_abs], with bins as wide as those of x.

    With narrower ones every other bin would be empty, and look like information.
    """
    bins = len(statistics.counts)
    if statistics.max_abs == 0:
        return np.bincount([0], statistics.counts.sum()[None], bins).astype(np.float64)
    span = statistics.maximum - statistics.minimum
    if span > statistics.max_abs:
        bins = int(np.ceil(bins * statistics.max_abs / span))
    places = np.abs(statistics.bin_centres) / statistics.max_abs * bins
    indices = np.minimum(places.astype(np.int64), bins - 1)
    return np.bincount(indices, statistics.counts, bins).astype(np.float64)


def _divergence(counts: npt.NDArray[np.float64], end: int) -> float:
    """Divergence of the first ``end`` bins on 128 levels from the clipped histogram."""
    kept = counts[:end]
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    # every level stands for the bins that round to it, and spreads its count over those in use
    level = (np.arange(end) * INT8_LEVELS) // end
    used = kept > 0
    total = np.bincount(level, kept, INT8_LEVELS)
    bins_used = np.bincount(level, used, INT8_LEVELS)
    spread = np.where(used, total[level] / np.maximum(bins_used[level], 1), 0.0)
    if spread.sum() == 0:
        return float("inf")
    p, q = clipped / clipped.sum(), spread / spread.sum()
    both = (p > 0) & (q > 0)
    # what p has where q has nothing would be infinitely improbable: count it at a small chance
    lost = p[(p > 0) & (q == 0)]
    tiny = 1e-7
    return float((p[both] * np.log(p[both] / q[both])).sum() + (lost * np.log(lost / tiny)).sum())
