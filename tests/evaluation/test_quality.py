"""How far masks can be trusted: fitted on masks whose chance of being good is known."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from samus_edge.errors import DataError
from samus_edge.evaluation import quality
from samus_edge.evaluation.quality import KINDS, JudgedMask
from samus_edge.runtime.quality import FEATURES

TRUE = np.array([1.0, 0.8, 0.0, 0.5, 1.0, 0.0, -1.0, -0.7])
BOUNDS = (0.86, 0.94)  # of a coverage that is meant to be 0.9


def known_masks(
    lesions: int, seed: int, shift: float = 0.0, scale: float = 1.0
) -> tuple[list[JudgedMask], npt.NDArray[np.float64]]:
    """Masks that are good with a known chance, and the less good the wider their sizes are off."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((lesions, len(FEATURES)))
    chances = 1 / (1 + np.exp(-(0.5 + shift + features @ TRUE)))
    is_good = rng.random(lesions) < chances
    ratios = np.exp(rng.standard_normal((lesions, 2)) * 0.3 * (1.2 - chances[:, None]) * scale)
    return [
        JudgedMask("set", (str(i), 0), KINDS[0], tuple(row), 0.5, 0.9 if good else 0.3, (a, d))
        for i, (row, good, (a, d)) in enumerate(
            zip(features.tolist(), is_good, ratios.tolist(), strict=True)
        )
    ], chances


def test_known_chances_and_spreads_are_found() -> None:
    fitted = quality.fit_quality(known_masks(3000, 1)[0], {"data": "known"})
    fresh, chances = known_masks(3000, 2)
    assert np.abs(quality.probabilities(fitted, fresh) - chances).mean() < 0.02
    figures = quality.quality_figures(fitted, fresh)
    assert figures["expected_calibration_error"] < 0.03
    for name in ("area_covered", "diameter_covered"):
        assert BOUNDS[0] <= figures[name] <= BOUNDS[1]
    # Sizes of masks that are probably good are off by less.
    widths = [each.area[1] / each.area[0] for each in fitted.factors]
    assert len(widths) == 6 and widths[-1] < 0.7 * widths[0]
    assert fitted.data == {
        "data": "known",
        "lesions": {"set": 3000},
        "masks": 3000,
        "prompts": list(KINDS),
        "good": pytest.approx(chances.mean(), abs=0.03),
    }


def test_the_fit_is_the_one_of_a_general_optimiser() -> None:
    masks, _ = known_masks(200, 3)
    fitted = quality.fit_quality(masks, {})
    features = np.array([each.features for each in masks])
    is_good = np.array([each.dice >= 0.8 for each in masks])
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)

    def loss(weights: npt.NDArray[np.float64]) -> float:
        odds = weights[0] + scaled @ weights[1:]
        likelihood = np.logaddexp(0, odds).sum() - odds[is_good].sum()
        return float(likelihood + 0.05 * weights[0] ** 2 + 0.5 * (weights[1:] ** 2).sum())

    best = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-6}).x
    found = [fitted.coefficients[name] for name in FEATURES]
    np.testing.assert_allclose(found, best[1:] / features.std(axis=0), atol=1e-4)


def test_few_lesions_adapt_an_earlier_calibration_and_widen_it() -> None:
    with pytest.raises(DataError, match=r"50 lesions.*got 12"):
        quality.fit_quality(known_masks(12, 4)[0], {})
    base = quality.fit_quality(known_masks(3000, 1)[0], {"data": "known"})
    worse, _ = known_masks(40, 5, shift=-4.0, scale=3.0)
    adapted = quality.fit_quality(worse, {"data": "mine"}, base)
    assert adapted.data["adapted_from"] == base.data
    fresh, chances = known_masks(2000, 6, shift=-4.0, scale=3.0)
    errors = [
        np.abs(quality.probabilities(each, fresh) - chances).mean() for each in (adapted, base)
    ]
    assert errors[0] < 0.5 * errors[1]
    # Of 40 lesions, the coverage itself is known to 0.05 (a standard deviation).
    assert quality.quality_figures(adapted, fresh)["area_covered"] > 0.8
    assert quality.quality_figures(base, fresh)["area_covered"] < 0.7


def test_figures_of_known_scores() -> None:
    rng = np.random.default_rng(0)
    scores, is_good = rng.integers(0, 9, 200) / 8, rng.random(200) < 0.6
    statistic = mannwhitneyu(scores[is_good], scores[~is_good]).statistic
    expected = statistic / (is_good.sum() * (~is_good).sum())
    assert quality.failure_auroc(scores, is_good) == pytest.approx(expected)
    # In the bin of 0.15: two of four good; in that of 1.0 none.
    few = np.array([0.15, 0.15, 0.15, 0.15, 1.0])
    error = quality.expected_calibration_error(few, np.array([True, True, False, False, False]))
    assert error == pytest.approx(4 / 5 * 0.35 + 1 / 5)
    coverage, risk = quality.risk_at_coverage(np.array([0.1, 0.9, 0.5]), np.array([0.2, 1.0, 0.6]))
    np.testing.assert_allclose(coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(risk, [0, 0.2, 0.4])
