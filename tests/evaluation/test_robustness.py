"""The robustness table of a predictor that fills boxes, and of scores made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.data.case import select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import (
    CENTRE_POINT,
    JITTERED_BOX,
    PromptProtocol,
    case_generator,
)
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.robustness import (
    LOW_DICE,
    BoxAndPointProtocol,
    MarginBoxProtocol,
    OffsetPointProtocol,
    robustness_checks,
    robustness_table,
    robustness_variants,
)

Mask = npt.NDArray[np.bool_]

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(2, 30), st.integers(2, 30))).filter(np.any)


RNG = np.random.default_rng(0)  # for what draws nothing


def margin_box(mask: Mask, margin: float) -> npt.NDArray[np.float32]:
    box = MarginBoxProtocol(margin).prompt(mask, RNG).box
    assert box is not None
    return box


def offset_point(mask: Mask, offset: float, seed: int) -> npt.NDArray[np.float32]:
    (point,) = OffsetPointProtocol(offset).prompt(mask, np.random.default_rng(seed)).points
    return np.asarray(point)


@pytest.fixture
def mask() -> Mask:
    """100 wide, 40 high: columns 100 to 199, rows 50 to 89 of 300 x 200 pixels."""
    made = np.zeros((200, 300), dtype=np.bool_)
    made[50:90, 100:200] = True
    return made


def test_every_edge_of_a_loose_box_is_out_by_its_share_of_the_side(mask: Mask) -> None:
    np.testing.assert_allclose(margin_box(mask, 0.15), [85, 44, 214, 95])
    np.testing.assert_allclose(margin_box(mask, -0.10), [110, 54, 189, 85])
    # What sticks out of the image is cut off.
    mask[:, :5] = False
    mask[0:40, 0:50] = True  # now columns 0 to 199, rows 0 to 89
    np.testing.assert_allclose(margin_box(mask, 0.20), [0, 0, 239, 107])


@given(MASKS, st.floats(-0.49, 1.0).filter(bool))
@settings(deadline=None, derandomize=True)
def test_margin_boxes_are_valid_prompts(mask: Mask, margin: float) -> None:
    x1, y1, x2, y2 = margin_box(mask, margin)
    assert 0 <= x1 < x2 <= mask.shape[1] - 1
    assert 0 <= y1 < y2 <= mask.shape[0] - 1


def test_an_offset_point_lies_on_an_ellipse_around_the_centre(mask: Mask) -> None:
    points = np.array([offset_point(mask, 0.2, s) for s in range(200)])
    relative = (points - [149.5, 69.5]) / [20, 8]  # 20 % of 100 and of 40 pixels
    np.testing.assert_allclose(np.hypot(*relative.T), 1.0, atol=1e-4)
    assert np.abs(relative.mean(axis=0)).max() < 0.15  # all directions


@given(MASKS, st.floats(0.01, 0.99), st.integers(0, 10))
@settings(deadline=None, derandomize=True)
def test_an_offset_point_is_on_the_lesion(mask: Mask, offset: float, seed: int) -> None:
    x, y = offset_point(mask, offset, seed)
    assert mask[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]


def test_a_point_that_misses_goes_to_the_nearest_pixel_of_the_lesion() -> None:
    mask = np.zeros((21, 101), dtype=np.bool_)
    mask[10, :], mask[0, 50] = True, True  # a line, and a pixel that makes its box 21 high
    point = offset_point(mask, 0.4, 0)
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi)
    assert abs(0.4 * 21 * np.sin(angle)) > 1  # off the line
    assert point[1] == 10
    # The centre is on the line, near its middle.
    assert point[0] == pytest.approx(50 + 0.4 * 101 * np.cos(angle), abs=1)


def test_box_and_point_are_those_of_the_standard_protocols(mask: Mask) -> None:
    def rng() -> np.random.Generator:
        return case_generator("benign/benign (1)", 0, 0)

    both = BoxAndPointProtocol().prompt(mask, rng())
    np.testing.assert_array_equal(both.box, JITTERED_BOX.prompt(mask, rng()).box)
    np.testing.assert_array_equal(both.points, CENTRE_POINT.prompt(mask, rng()).points)


def test_protocols_are_named_by_what_they_do() -> None:
    protocols: list[PromptProtocol] = [MarginBoxProtocol(0.05), MarginBoxProtocol(-0.05)]
    protocols += [OffsetPointProtocol(0.3), BoxAndPointProtocol()]
    assert [protocol.name for protocol in protocols] == [
        "box_loose_5%",
        "box_tight_5%",
        "point_off_30%",
        "box_5%+centre_point",
    ]


def test_bad_amounts_raise_with_their_value() -> None:
    with pytest.raises(ValueError, match=r"above -0\.5.* got -0\.5"):
        MarginBoxProtocol(-0.5)
    with pytest.raises(ValueError, match=r"not 0, got 0\.0.*BoxProtocol"):
        MarginBoxProtocol(0.0)
    with pytest.raises(ValueError, match=r"offset must be above 0 and below 1, got 1\.0"):
        OffsetPointProtocol(1.0)


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


def test_lines_are_compared_with_their_reference_on_the_same_lesions(
    fake_busi: Path, box_filler: Any
) -> None:
    cases = list_cases(fake_busi, ["benign/benign (1)", "benign/benign (2)"])
    report = evaluate(box_filler, cases, variants=robustness_variants())
    # Each image is encoded once for all its prompts.
    images = {variant.image for variant in robustness_variants()}
    assert len(box_filler.encoded) == 2 * len(images) == 2 * 24
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
    # Masks go through 1024x768 and back to 80x60 with edges on other pixels by less than one.
    assert abs(rows["frame size", "1024x768", "box_5%"].dice_change) < 0.05


def test_missing_lines_are_named(fake_busi: Path, box_filler: Any) -> None:
    scores = evaluate(box_filler, select_lesions(list_cases(fake_busi))).scores
    with pytest.raises(ValueError, match="scores lack box_exact on as_is"):
        robustness_table(scores, 0)
