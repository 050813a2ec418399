"""Limits and how figures are held against them."""

import math
from dataclasses import replace

import pytest

from samus_edge.verification.gates import (
    GATES,
    Gate,
    PrecisionFigures,
    PrecisionTimes,
    ProtocolFigures,
    judge,
    latency_figures,
)

FINE = PrecisionFigures(
    precision="fp16",
    is_reference=False,
    frames=1,
    prompts=1,
    largest_value=100.0,
    iou_prediction_range=(0.5, 0.9),
    embedding_cosine_mean=1.0,
    embedding_cosine_worst=1.0,
    embedding_error_max=0.0,
    protocols=(ProtocolFigures("box", 1, dice=0.9, dice_reference=0.902, dice_drop=0.2),),
    repeat_logit_error=0.0,
)


def failed(figures: PrecisionFigures) -> list[str]:
    """Names of the limits that do not hold."""
    return [each.name for each in judge(figures, GATES, {}) if not each.passed]


def test_a_limit_itself_passes() -> None:
    assert failed(FINE) == []
    assert GATES.parity_mask_iou.holds(0.999) and not GATES.parity_mask_iou.holds(0.998999)
    assert not GATES.fp16_dice_drop.holds(math.nan)
    assert not GATES.parity_mask_iou.holds(math.nan)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"not_finite_frames": 1}, "not_finite"),
        ({"not_finite_prompts": 1}, "not_finite"),
        ({"largest_value": 10_001.0}, "largest_value"),
        ({"largest_value": None}, "largest_value"),
        ({"repeat_logit_error": 1e-6}, "repeat_logit_error"),
        ({"protocols": (ProtocolFigures("box", 1, dice_drop=0.21),)}, "fp16_dice_drop"),
        ({"precision": "int8-cpu", "protocols": (ProtocolFigures("b", 1, dice_drop=0.51),)},
         "int8_dice_drop"),
        ({"protocols": (ProtocolFigures("b", 1, mask_iou_mean=0.9949, mask_iou_worst=0.97),)},
         "fp16_mean_mask_iou"),
        ({"protocols": (ProtocolFigures("b", 1, mask_iou_mean=0.996, mask_iou_worst=0.95),)},
         "fp16_worst_mask_iou"),
        ({"precision": "int8", "protocols": (ProtocolFigures("b", 1, mask_iou_mean=0.89),)},
         "int8_mean_mask_iou"),
    ],
)  # fmt: skip
def test_what_is_beyond_a_limit_fails(changes: dict[str, object], name: str) -> None:
    assert failed(replace(FINE, **changes)) == [name]  # type: ignore[arg-type]  # of several fields


def test_one_kind_of_prompt_over_budget_is_enough() -> None:
    protocols = tuple(ProtocolFigures(name, 1, dice_drop=drop) for name, drop in
                      (("box", -0.5), ("point", 0.3)))  # fmt: skip
    outcomes = judge(replace(FINE, protocols=protocols), GATES, {})
    (over,) = (each for each in outcomes if not each.passed)
    assert over.text == "Dice drop with point: 0.3 points, allowed 0.2 points"
    assert over.to_json() == {
        "name": "fp16_dice_drop", "prompt": "point", "value": 0.3, "limit": 0.2, "passed": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("threads_logit_error", "parity", "failing"),
    [
        (1e-4, {"max_abs_logit_error": 1e-3, "min_mask_iou": 1}, []),
        (0.01, {"max_abs_logit_error": 1e-4, "min_mask_iou": 1}, ["threads_logit_error"]),
        (0.0, {}, ["parity_logit_error", "parity_mask_iou"]),
        (0.0, {"max_abs_logit_error": 2e-3, "min_mask_iou": 0.9999}, ["parity_logit_error"]),
        (0.0, {"max_abs_logit_error": 1e-3, "min_mask_iou": 0.99}, ["parity_mask_iou"]),
    ],
)
def test_the_reference_is_judged_by_its_threads_and_its_recorded_parity_with_torch(
    threads_logit_error: float, parity: dict[str, float], failing: list[str]
) -> None:
    figures = replace(
        FINE, precision="fp32", is_reference=True, threads_logit_error=threads_logit_error
    )
    outcomes = judge(figures, GATES, parity)
    assert [each.name for each in outcomes if not each.passed] == failing


def test_what_does_not_run_has_one_failure() -> None:
    (outcome,) = judge(PrecisionFigures("fp16", error="no such operator"), GATES, {})
    assert not outcome.passed
    assert outcome.text == "graphs that do not run: no such operator"


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="limit of a must be finite, got nan"):
        Gate("a", math.nan, "None.")
    with pytest.raises(ValueError, match="from 0 to 100 Dice points, got -1"):
        GATES.with_max_drop(-1)


def test_ratios_are_those_of_each_frame() -> None:
    # The second frame is large; its times must not outweigh the others'.
    reference = PrecisionTimes([10, 100, 10], [[5, 5], [5, 5], [10, 10]])
    own = PrecisionTimes([5, 150, 6], [[5, 5], [5, 10], [4, 4]])
    figures = latency_figures(own, reference)
    assert (figures.encoder_ms, figures.decoder_ms) == (6, 5)
    assert figures.encoder_ratio == pytest.approx(0.6)  # of 0.5, 1.5, 0.6
    assert figures.decoder_ratio == pytest.approx(1.0)  # of 1, 1, 1, 2, 0.4, 0.4
    assert figures.ratio == pytest.approx(10 / 15)  # of 10 / 15, 157.5 / 105, 10 / 20
    assert figures.is_faster is True


@pytest.mark.parametrize(("ms", "is_faster"), [(9.4, True), (9.6, False), (12.0, False)])
def test_a_few_percent_are_not_faster(ms: float, is_faster: bool) -> None:
    reference, own = PrecisionTimes([8], [[2]]), PrecisionTimes([ms - 2], [[2]])
    assert latency_figures(own, reference).is_faster is is_faster


def test_neither_the_reference_nor_a_recipe_for_another_machine_is_faster() -> None:
    times = PrecisionTimes([8], [[2]])
    figures = latency_figures(times, None)
    assert (figures.encoder_ms, figures.ratio, figures.is_faster) == (8, None, None)
    figures = latency_figures(times, times, not_judged="another machine")
    assert (figures.ratio, figures.is_faster, figures.note) == (1.0, None, "another machine")
