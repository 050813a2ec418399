"""The interval of a mean against the normal approximation, and bad input."""

import numpy as np
import pytest

from samus_edge.evaluation.group_bootstrap import bootstrap_interval


def test_the_interval_follows_the_groups_and_not_the_values() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 200)
    fourfold = np.repeat(values, 4)
    groups = [str(index) for index in range(200) for _ in range(4)]
    low, high = bootstrap_interval(fourfold, groups, np.random.default_rng(0))
    half = 1.96 * values.std() / 200**0.5
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_values_without_groups_raise() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"got shape \(2,\) and 1 groups"):
        bootstrap_interval([0.1, 0.2], ["a"], rng)
    with pytest.raises(ValueError, match=r"got shape \(0,\) and 0 groups"):
        bootstrap_interval([], [], rng)
