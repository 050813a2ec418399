"""Careless prompts against hand-computed shapes."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.evaluation.prompt_protocol import (
    CENTRE_POINT,
    JITTERED_BOX,
    PromptProtocol,
    case_generator,
)
from samus_edge.evaluation.robustness_prompts import (
    BoxAndPointProtocol,
    MarginBoxProtocol,
    OffsetPointProtocol,
    loose_box_sweep,
    margin_box,
    offset_point,
)

Mask = npt.NDArray[np.bool_]

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(2, 30), st.integers(2, 30))).filter(np.any)


@pytest.fixture
def mask() -> Mask:
    """100 wide, 40 high: columns 100 to 199, rows 50 to 89 of 300 x 200 pixels."""
    made = np.zeros((200, 300), dtype=np.bool_)
    made[50:90, 100:200] = True
    return made


def test_every_edge_of_a_loose_box_is_out_by_its_share_of_the_side(mask: Mask) -> None:
    np.testing.assert_allclose(margin_box(mask, 0.15), [85, 44, 214, 95])
    np.testing.assert_allclose(margin_box(mask, -0.10), [110, 54, 189, 85])


def test_a_loose_box_is_cut_off_at_the_image(mask: Mask) -> None:
    mask[:, :5] = False
    mask[0:40, 0:50] = True  # now columns 0 to 199, rows 0 to 89
    np.testing.assert_allclose(margin_box(mask, 0.20), [0, 0, 239, 107])


@given(MASKS, st.floats(-0.49, 1.0))
@settings(deadline=None, derandomize=True)
def test_margin_boxes_are_valid_prompts(mask: Mask, margin: float) -> None:
    x1, y1, x2, y2 = margin_box(mask, margin)
    assert 0 <= x1 < x2 <= mask.shape[1] - 1
    assert 0 <= y1 < y2 <= mask.shape[0] - 1


def test_an_offset_point_lies_on_an_ellipse_around_the_centre(mask: Mask) -> None:
    points = np.array([offset_point(mask, 0.2, np.random.default_rng(s)) for s in range(200)])
    relative = (points - [149.5, 69.5]) / [20, 8]  # 20 % of 100 and of 40 pixels
    np.testing.assert_allclose(np.hypot(*relative.T), 1.0, atol=1e-4)
    assert np.abs(relative.mean(axis=0)).max() < 0.15  # all directions


@given(MASKS, st.floats(0.01, 0.99), st.integers(0, 10))
@settings(deadline=None, derandomize=True)
def test_an_offset_point_is_on_the_lesion(mask: Mask, offset: float, seed: int) -> None:
    x, y = offset_point(mask, offset, np.random.default_rng(seed))
    assert mask[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]


def test_a_point_that_misses_goes_to_the_nearest_pixel_of_the_lesion() -> None:
    mask = np.zeros((21, 101), dtype=np.bool_)
    mask[10, :], mask[0, 50] = True, True  # a line, and a pixel that makes its box 21 high
    point = offset_point(mask, 0.4, np.random.default_rng(0))
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
    protocols: list[PromptProtocol] = [*loose_box_sweep(), MarginBoxProtocol(-0.05)]
    protocols += [OffsetPointProtocol(0.3), BoxAndPointProtocol()]
    assert [protocol.name for protocol in protocols] == [
        "box_loose_5%",
        "box_loose_10%",
        "box_loose_15%",
        "box_loose_20%",
        "box_tight_5%",
        "point_off_30%",
        "box_5%+centre_point",
    ]


def test_bad_amounts_raise_with_their_value() -> None:
    with pytest.raises(ValueError, match=r"margin must be above -0\.5 and at most 1, got -0\.5"):
        MarginBoxProtocol(-0.5)
    with pytest.raises(ValueError, match=r"margin must not be 0"):
        MarginBoxProtocol(0.0)
    with pytest.raises(ValueError, match=r"offset must be above 0 and below 1, got 1\.0"):
        OffsetPointProtocol(1.0)
