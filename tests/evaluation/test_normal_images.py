"""Prompts on images without a lesion."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.normal_images import (
    SeparatedCases,
    area_under_curve,
    evaluate_normals,
    normal_prompts,
    separate_normals,
)


def test_cases_are_separated_by_their_masks(fake_busi: Path) -> None:
    separated = separate_normals(list_cases(fake_busi))
    assert [case.key for case in separated.normals] == ["normal/normal (1)"]
    assert len(separated.lesions) == 5
    # Widths 40/80, 40/80, 20/80, 40/81, 30/50, 16/64; heights 20/60, 20/60, 10/60, 20/61, 40/70,
    # 16/64: the means of the two in the middle.
    expected = ((40 / 81 + 0.5) / 2, (20 / 61 + 20 / 60) / 2)
    assert separated.typical_box_wh == pytest.approx(expected)


def test_no_lesion_at_all_is_an_error(fake_busi: Path) -> None:
    with pytest.raises(DataError, match="None of the 1 cases has a lesion"):
        separate_normals(list_cases(fake_busi, ["normal/normal (1)"]))


def test_prompts_are_in_the_middle() -> None:
    prompts = normal_prompts((60, 80), (0.5, 0.25))
    # 40 x 15 pixels around (39.5, 29.5), edges at the centres of the outermost pixels
    box = prompts["typical_box"].box
    assert box is not None
    np.testing.assert_allclose(box, [20, 22.5, 59, 36.5])
    np.testing.assert_allclose(prompts["image_centre"].points, [[39.5, 29.5]])


def test_what_is_marked_is_summed_up(fake_busi: Path, box_filler: Any) -> None:
    separated = replace(separate_normals(list_cases(fake_busi)), typical_box_wh=(0.5, 0.25))
    scores = evaluate(box_filler, separated.lesions).scores
    seen: list[str] = []
    box, point = evaluate_normals(
        box_filler, separated, scores, on_case=lambda case: seen.append(case.key)
    )
    assert seen == ["normal/normal (1)"]
    assert (box.prompt, box.lesion_prompt) == ("typical_box", "box_5%")
    assert (box.images, box.lesions, box.marked_fraction) == (1, 6, 1.0)
    # columns 20 to 59; rows 22.5 and 36.5 round to 22 and 36
    assert box.mean_area_fraction == pytest.approx(40 * 15 / 4800)
    assert (point.prompt, point.lesion_prompt) == ("image_centre", "centre_point")
    assert (point.marked_fraction, point.mean_area_fraction) == (0.0, 0.0)
    # The filler says 0.75 of everything, which tells nothing apart.
    assert (box.mean_iou_prediction, box.iou_prediction_auc) == (0.75, 0.5)


def test_without_normal_images_there_is_nothing_to_say(box_filler: Any) -> None:
    assert evaluate_normals(box_filler, SeparatedCases([], [], (0.5, 0.25)), []) == ()


def test_the_area_under_the_curve_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(0.5, 1, 40).round(1), rng.normal(0, 1, 30).round(1)  # ties
    statistic = mannwhitneyu(positives, negatives).statistic
    assert area_under_curve(positives, negatives) == pytest.approx(statistic / (40 * 30))
    assert area_under_curve([2, 3], [0, 1]) == 1.0
