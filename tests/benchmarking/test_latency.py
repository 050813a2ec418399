"""Sums over timed runs."""

import numpy as np
import pytest

from samus_edge.benchmarking.latency import Latency, ratio_of_medians


def test_by_hand() -> None:
    latency = Latency.of([1.0, 2.0, 3.0, 4.0, 10.0], items=2)
    assert latency.runs == 5
    assert latency.p50 == 3.0
    assert latency.p90 == pytest.approx(7.6)  # 4 + 0.6 * 6
    assert latency.p99 == pytest.approx(9.76)
    assert latency.mean == 4.0
    assert latency.per_second == 500.0  # two of each run of 4 ms


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no run was timed"):
        Latency.of([])
    with pytest.raises(ValueError, match="got 1 and 2"):
        ratio_of_medians([[1.0]], [[1.0], [2.0]])


def test_a_ratio_has_an_interval_that_covers_the_truth() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(40):
        drift = generator.uniform(1, 1.3, 12)  # of the machine, the same for both
        own = [(d * generator.normal(20, 0.5, 6)).tolist() for d in drift]
        other = [(d * generator.normal(10, 0.25, 6)).tolist() for d in drift]
        ratio = ratio_of_medians(own, other, seed)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 2.0 <= ratio.high
    assert covered >= 34


def test_a_constant_ratio_has_no_width() -> None:
    ratio = ratio_of_medians([[4.0, 4.0]] * 3, [[2.0, 2.0]] * 3)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
