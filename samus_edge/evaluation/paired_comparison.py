"""Are two models different? A paired comparison of scores on the same lesions.

Both the interval and the p-value treat a group (the lesions of one image, near-duplicate images) as
one piece of evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError

BOOTSTRAP_RESAMPLES: Final = 2000
"""Enough for the ends of a 95 % interval to be stable to about 0.001 Dice."""

INTERVAL_PERCENTILES: Final = (2.5, 97.5)


def bootstrap_interval(
    values: npt.ArrayLike, groups: Sequence[str], rng: np.random.Generator
) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of a mean.

    What is drawn with replacement are groups, not values: lesions of one image, and near-duplicate
    images, are no independent evidence, and treating them so would make the interval too narrow.

    Args:
        values: (L,) one number per lesion, at least one.
        groups: group of each lesion.
        rng: source of randomness.

    Returns:
        Lower and upper end.

    Raises:
        BadArgumentError: if there are no values, or as many groups as values are not given.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0 or len(groups) != numbers.size:
        raise BadArgumentError(
            "values must have shape (L,) with L >= 1 and come with L groups, "
            f"got shape {numbers.shape} and {len(groups)} groups."
        )
    _, group_of = np.unique(groups, return_inverse=True)
    totals = np.bincount(group_of, weights=numbers)
    counts = np.bincount(group_of)
    drawn = rng.integers(len(counts), size=(BOOTSTRAP_RESAMPLES, len(counts)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)  # (resamples,)
    low, high = np.percentile(means, INTERVAL_PERCENTILES)
    return float(low), float(high)


MAX_EXACT_GROUPS: Final = 14
"""Up to so many groups all 2^groups sign patterns are enumerated; beyond, patterns are drawn."""

DRAWN_PATTERNS: Final = 20_000
"""The standard error of a p-value of 0.05 is then 0.0015."""

RELATIVE_TIE: Final = 1e-9
"""Patterns whose mean differs from the observed one by rounding alone count as equal to it."""


@dataclass(frozen=True)
class PairedComparison:
    """The difference between two lists of scores on the same lesions."""

    first: str
    """Name of the first."""
    second: str
    """Name of the second."""
    lesions: int
    """Number of lesions."""
    groups: int
    """Number of independent groups among them."""
    mean_first: float
    mean_second: float
    mean_difference: float
    """Second minus first."""
    interval: tuple[float, float]
    """95 % interval of the mean difference; whole groups are resampled."""
    p_value: float
    """Two-sided, of the sign-flip permutation test, see `sign_flip_p_value`; not corrected for the
    number of comparisons."""


def compare_paired(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    names: tuple[str, str] = ("first", "second"),
    seed: int = 0,
) -> PairedComparison:
    """Compare two lists of scores on the same lesions.

    Args:
        first: (L,) scores, at least one; with several seeds of a model, their mean per lesion.
        second: (L,) scores of the same lesions in the same order.
        groups: group of each lesion; None if all are independent.
        names: names of the two lists, for the result.
        seed: seed of the bootstrap and of the drawn sign patterns; at least 0.

    Raises:
        BadArgumentError: if the lists differ in length, are empty or not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise BadArgumentError(
            f"{names[0]} and {names[1]} must be scores of the same lesions with shape (L,), "
            f"L >= 1, got shapes {a.shape} and {b.shape}."
        )
    for name, values in zip(names, (a, b), strict=True):
        if not np.isfinite(values).all():
            wrong = int(np.flatnonzero(~np.isfinite(values))[0])
            raise BadArgumentError(f"{name} must be finite, got {values[wrong]} at lesion {wrong}.")
    differences = b - a
    labels = [str(index) for index in range(a.size)] if groups is None else list(groups)
    return PairedComparison(
        first=names[0],
        second=names[1],
        lesions=a.size,
        groups=len(set(labels)),
        mean_first=float(a.mean()),
        mean_second=float(b.mean()),
        mean_difference=float(differences.mean()),
        interval=bootstrap_interval(differences, labels, np.random.default_rng(seed)),
        p_value=sign_flip_p_value(differences, labels, np.random.default_rng(seed)),
    )


def sign_flip_p_value(
    differences: npt.ArrayLike, groups: Sequence[str], rng: np.random.Generator
) -> float:
    """Two-sided p-value of the paired permutation test of a mean difference of 0.

    If the two lists were exchangeable, the differences of any group could as well have the other
    sign. The p-value is the share of sign patterns, one sign per group, whose mean difference is at
    least as far from 0 as the observed one. All patterns are enumerated up to ``MAX_EXACT_GROUPS``
    groups; beyond, ``DRAWN_PATTERNS`` are drawn and the observed one is counted among them, so the
    p-value is never 0.

    Args:
        differences: (L,) difference on each lesion.
        groups: group of each lesion.
        rng: source of randomness.

    Source:
        Phipson and Smyth, "Permutation p-values should never be zero" (2010), equation 2, for the
        drawn patterns.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    sums = np.bincount(group_of, weights=np.asarray(differences, dtype=np.float64))  # (G,)
    observed = abs(float(sums.sum())) * (1.0 - RELATIVE_TIE)
    if len(sums) <= MAX_EXACT_GROUPS:
        patterns = np.array(list(product((-1.0, 1.0), repeat=len(sums))))  # (2^G, G)
        return float((np.abs(patterns @ sums) >= observed).mean())
    drawn = rng.integers(0, 2, size=(DRAWN_PATTERNS, len(sums)), dtype=np.int8) * 2 - 1
    extreme = int((np.abs(drawn @ sums) >= observed).sum())
    return (extreme + 1) / (DRAWN_PATTERNS + 1)
