"""The robustness table of a predictor that fills boxes, and of scores made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.data.case import select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.robustness import (
    LOW_DICE,
    robustness_checks,
    robustness_table,
    robustness_variants,
)


@pytest.fixture
def report(fake_busi: Path, box_filler: Any) -> Any:
    """All lines on two cases with three lesions."""
    cases = list_cases(fake_busi, ["benign/benign (1)", "benign/benign (2)"])
    return evaluate(box_filler, cases, variants=robustness_variants())


def test_the_table_has_every_change_of_the_specification() -> None:
    levels: dict[str, list[str]] = {}
    for check in robustness_checks():
        levels.setdefault(check.change, []).append(check.level)
    assert levels["box jitter"] == ["0 %", "5 %", "10 %", "15 %", "20 %"]
    assert levels["loose box"] == levels["tight box"] == ["0 %", "5 %", "10 %", "15 %", "20 %"]
    assert levels["point off centre"] == ["0 %", "10 %", "20 %", "30 %"]
    assert levels["gain"] == ["x0.5", "x0.7", "as is", "x1.4", "x2"] * 2  # box and point
    assert levels["frame size"][:2] == ["as is", "128x128"]
    assert set(levels) == {
        *("box jitter", "loose box", "tight box", "point off centre", "box and point"),
        *("gain", "gamma", "speckle", "noise", "stored smaller", "frame size"),
    }


def test_each_image_is_encoded_once_for_all_its_prompts(report: Any, box_filler: Any) -> None:
    images = {variant.image for variant in robustness_variants()}
    assert len(box_filler.encoded) == 2 * len(images) == 2 * 24


def test_lines_are_compared_with_their_reference_on_the_same_lesions(report: Any) -> None:
    rows = {(row.change, row.level, row.prompt): row for row in robustness_table(report.scores, 0)}
    exact = rows["box jitter", "0 %", "box_exact"]
    assert (exact.dice.mean, exact.dice_change) == (1.0, 0.0)
    loose = rows["loose box", "15 %", "box_loose_15%"]
    # Lesions of 40 x 20 pixels, twice, and of 20 x 10: by how much a filled box is too large, after
    # its edges went to whole pixels: 6 and 3 to each side, and 3 and 1.5 (rounded to even: 2, 1).
    large = 2 * 800 / (800 + 52 * 26)
    small = [s.dice for s in report.scores if s.prompt == "box_loose_15%"][2]
    assert 2 * 200 / (200 + 26 * 14) <= small <= 2 * 200 / (200 + 26 * 12)
    assert loose.dice.mean == pytest.approx((2 * large + small) / 3)
    assert loose.dice_change == pytest.approx(loose.dice.mean - 1.0)
    low, high = loose.dice_change_interval
    assert low <= loose.dice_change <= high <= 0
    brighter = rows["gain", "x2", "box_5%"]
    assert brighter.dice_change == 0.0  # the filler does not look at the image
    assert brighter.dice_change_interval == (0.0, 0.0)
    points = rows["point off centre", "30 %", "point_off_30%"]
    assert points.low_dice_lesions == points.lesions == 3  # nothing found at points
    assert loose.low_dice_lesions == int(np.sum([large, large, small] < np.float64(LOW_DICE)))


def test_a_resized_frame_changes_little(report: Any) -> None:
    rows = {(row.level, row.prompt): row for row in robustness_table(report.scores, 0)}
    # Masks go through 1024x768 and back to 80x60 with edges on other pixels by less than one.
    assert abs(rows["1024x768", "box_5%"].dice_change) < 0.05


def test_missing_lines_are_named(fake_busi: Path, box_filler: Any) -> None:
    scores = evaluate(box_filler, select_lesions(list_cases(fake_busi))).scores
    with pytest.raises(ValueError, match="scores lack box_exact on as_is"):
        robustness_table(scores, 0)
