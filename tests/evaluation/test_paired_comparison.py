"""Paired comparisons against SciPy and against hand-counted sign patterns."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from samus_edge.evaluation import paired_comparison as paired_test
from samus_edge.evaluation.paired_comparison import (
    bootstrap_interval,
    compare_paired,
    sign_flip_p_value,
)


def own_groups(count: int) -> list[str]:
    return [str(index) for index in range(count)]


def scipy_p_value(differences: object, resamples: float) -> float:
    result = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def test_exact_p_values_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.02, 0.1):
        differences = rng.normal(shift, 0.05, 10)
        p_value = sign_flip_p_value(differences, own_groups(10), rng)
        assert p_value == pytest.approx(scipy_p_value(differences, np.inf))


def test_drawn_p_values_agree_with_scipy() -> None:
    differences = np.random.default_rng(1).normal(0.012, 0.05, 60)
    p_value = sign_flip_p_value(differences, own_groups(60), np.random.default_rng(0))
    expected = scipy_p_value(differences, 20_000)
    assert 0.01 < expected < 0.5
    # Two draws of 20000 patterns: five standard errors.
    assert p_value == pytest.approx(expected, abs=5 * (2 * expected / 20_000) ** 0.5)


def test_one_sign_per_group() -> None:
    # Groups sum up to 3 and 1. Means of the patterns are +-4 and +-2 over 4: half are as extreme.
    p_value = sign_flip_p_value([1, 2, 1, 0], ["a", "a", "b", "b"], np.random.default_rng(0))
    assert p_value == 0.5
    # With a sign for each lesion: 1, 2, 1, 0 give +-4 in 4 of 16 patterns.
    p_value = sign_flip_p_value([1, 2, 1, 0], own_groups(4), np.random.default_rng(0))
    assert p_value == 0.25


def test_equal_lists_do_not_differ() -> None:
    for count in (5, 50):
        comparison = compare_paired(np.full(count, 0.9), np.full(count, 0.9))
        assert (comparison.mean_difference, comparison.interval) == (0.0, (0.0, 0.0))
        assert comparison.p_value == 1.0


def test_a_comparison_is_second_minus_first() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0.6, 0.9, 100)
    second = first + rng.normal(0.03, 0.01, 100)
    comparison = compare_paired(first, second, names=("without", "with"))
    assert (comparison.first, comparison.second) == ("without", "with")
    assert (comparison.lesions, comparison.groups) == (100, 100)
    assert comparison.mean_difference == pytest.approx((second - first).mean())
    low, high = comparison.interval
    # Paired: the spread of the differences counts, which is far smaller than that of the scores.
    half = 1.96 * (second - first).std() / 10
    assert (low, high) == pytest.approx(
        (comparison.mean_difference - half, comparison.mean_difference + half), abs=0.15 * half
    )
    assert comparison.p_value == pytest.approx(1 / (paired_test.DRAWN_PATTERNS + 1))


def test_lists_of_different_lesions_or_groups_raise() -> None:
    with pytest.raises(ValueError, match=r"none and hf must be .* got shapes \(2,\) and \(1,\)"):
        compare_paired([0.1, 0.2], [0.1], names=("none", "hf"))
    with pytest.raises(ValueError, match=r"second must be finite, got nan at lesion 1"):
        compare_paired([0.1, 0.2], [0.1, float("nan")])
    rng = np.random.default_rng(0)
    for values, groups in (([0.1, 0.2], ["a"]), ([], [])):
        with pytest.raises(ValueError, match=rf"\({len(values)},\) and {len(groups)} groups"):
            bootstrap_interval(values, groups, rng)


def test_the_interval_follows_the_groups_and_not_the_values() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 200)
    fourfold = np.repeat(values, 4)
    groups = [str(index) for index in range(200) for _ in range(4)]
    low, high = bootstrap_interval(fourfold, groups, np.random.default_rng(0))
    half = 1.96 * values.std() / 200**0.5
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
