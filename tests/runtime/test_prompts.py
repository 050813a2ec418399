"""Frames, and the rows that the decoder takes."""

import re

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samus_edge.runtime.prompts import (
    MAX_PROMPTS_PER_RUN,
    Prompts,
    assign_points_to_boxes,
    check_prompts,
    decoder_prompts,
    to_model_frame,
)

BOXES = np.array([[0, 0, 10, 10], [8, 0, 20, 10]], np.float64)


def test_with_one_box_every_point_is_its_own() -> None:
    coords, labels = assign_points_to_boxes(
        BOXES[:1], np.array([[5.0, 5.0], [90.0, 90.0]]), np.array([1, 0], np.int32)
    )
    np.testing.assert_array_equal(coords, [[[5, 5], [90, 90]]])
    np.testing.assert_array_equal(labels, [[1, 0]])


def test_with_several_a_point_belongs_to_each_box_that_contains_it() -> None:
    points = np.array([[5.0, 5.0], [9.0, 5.0], [20.0, 10.0]])  # first, both, edge of the second
    coords, labels = assign_points_to_boxes(BOXES, points, np.array([1, 0, 1], np.int32))
    assert coords.shape == (2, 3, 2)
    np.testing.assert_array_equal(labels, [[1, 0, -1], [-1, 0, 1]])


def test_a_point_in_no_box_is_an_error() -> None:
    points = np.array([[5.0, 5.0], [30.5, 5.0]])
    with pytest.raises(ValueError, match=r"point \(30\.5, 5\) lies in none of the 2 boxes"):
        assign_points_to_boxes(BOXES, points, np.array([1, 1], np.int32))


HW = (300, 400)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[10, 20, 200, 220]], [[10, 20, 200, 220]]),  # inside: as it is
        ([[0, 0, 399, 299]], [[0, 0, 399, 299]]),
        ([[0, 0, 400, 300]], [[0, 0, 399.5, 299.5]]),  # the image ends half a pixel after 399
        ([[-50, -50, 1000, 1000]], [[-0.5, -0.5, 399.5, 299.5]]),
        ([[-1e300, 5, 1e300, 9]], [[-0.5, 5, 399.5, 9]]),  # beyond float32
        ([[390, 290, 500, 500]], [[390, 290, 399.5, 299.5]]),
        ([[1.25, 2.5, 3.75, 4.5], [5, 6, 7, 8]], [[1.25, 2.5, 3.75, 4.5], [5, 6, 7, 8]]),
    ],
)
def test_boxes_outside_the_image_are_clipped(boxes: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    checked = check_prompts(HW, boxes=boxes).boxes
    assert checked is not None
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((200, 20, 10, 220), "(200, 20, 10, 220) is inverted: x1 > x2"),
        ((10, 220, 200, 20), "(10, 220, 200, 20) is inverted: y1 > y2"),
        ((100, 50, 30, 20), "x, y, width, height, give (100, 50, 130, 70)"),
        ((10, 20, 10, 220), "(10, 20, 10, 220) has no area: x1 = x2"),
        ((10, 20, 200, 20), "(10, 20, 200, 20) has no area: y1 = y2"),
        ((10, 20, 10 + 1e-9, 220), "has no area within the image"),
        ((399.49999999, 20, 500, 220), "has no area within the image"),
        ((NAN, 20, 200, 220), "(nan, 20, 200, 220) is not finite"),
        ((10, 20, INF, 220), "(10, 20, inf, 220) is not finite"),
        ((10, -INF, 200, 220), "(10, -inf, 200, 220) is not finite"),
        ((400, 20, 500, 220), "(400, 20, 500, 220) is outside the image of 400 x 300 pixels"),
        ((10, 300, 200, 400), "(10, 300, 200, 400) is outside the image of 400 x 300 pixels"),
        ((-20, 20, -1, 220), "(-20, 20, -1, 220) is outside the image of 400 x 300 pixels"),
        ((10, -20, 200, -0.5), "is outside the image of 400 x 300 pixels"),
        ((1e300, 0, 2e300, 9), "(1e+300, 0, 2e+300, 9) is outside"),
    ],
)
def test_a_bad_box_is_named(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_prompts(HW, boxes=[[1, 2, 3, 4], box])
    assert str(caught.value).startswith("boxes[1] = ")


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([10, 20, 200, 220], r"got shape \(4,\)\. For one box pass boxes\[None\]\."),
        ([[10, 20, 200]], r"got shape \(1, 3\)\."),
        ([], r"got shape \(0,\)\."),
        ([[[1, 2, 3, 4]]], r"got shape \(1, 1, 4\)\."),
        ([[1, 2, 3, 4], [1, 2, 3]], "rows of equal length"),
    ],
)
def test_boxes_of_another_shape_are_refused(boxes: npt.ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompts(HW, boxes=boxes)


@pytest.mark.parametrize(
    "boxes", ["10,20,30,40", [["1", "2", "3", "4"]], [[None, 1, 2, 3]], [[True, False, True, True]]]
)
def test_boxes_that_are_no_numbers_are_refused(boxes: object) -> None:
    with pytest.raises(TypeError, match="boxes must be real numbers, got dtype"):
        check_prompts(HW, boxes=boxes)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize(
    "point", [(0, 0), (399, 299), (-0.5, -0.5), (399.5, 299.5), (0.25, 298.75)]
)
def test_points_are_inside_up_to_the_edge(point: tuple[float, float]) -> None:
    checked = check_prompts(HW, point_coords=[point]).point_coords
    np.testing.assert_array_equal(checked, np.array([[point]], np.float32))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            (400, 20),
            "point (400, 20) is outside the image of 400 x 300 pixels. Give x from 0 to 399",
        ),
        ((10, 300), "point (10, 300) is outside the image of 400 x 300 pixels"),
        ((-1, 20), "point (-1, 20) is outside the image of 400 x 300 pixels"),
        ((20, 399), "point (20, 399) is outside the image"),  # x and y mistaken
        ((NAN, 20), "point (nan, 20) is not finite"),
        ((10, INF), "point (10, inf) is not finite"),
    ],
)
def test_a_bad_point_is_named(point: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_prompts(HW, point_coords=[(5.0, 5.0), point], point_labels=[1, 0])


def test_coordinates_of_padding_are_ignored() -> None:
    checked = check_prompts(HW, point_coords=[[[5.0, 6.0], [NAN, 1e9]]], point_labels=[[1, -1]])
    np.testing.assert_array_equal(checked.point_coords, [[[5, 6], [0, 0]]])


@pytest.mark.parametrize(
    ("labels", "shape", "expected"),
    [
        ([1, 1, -1], (3, 2), [[1, 1, -1]]),
        ([[1], [1]], (2, 1, 2), [[1], [1]]),
        (None, (2, 3, 2), np.ones((2, 3))),
        ([1.0], (1, 2), [[1]]),
    ],
)
def test_labels_get_the_shape_of_prompts(
    labels: npt.ArrayLike | None, shape: tuple[int, ...], expected: npt.ArrayLike
) -> None:
    checked = check_prompts(HW, point_coords=np.zeros(shape), point_labels=labels).point_labels
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, expected)


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([1, 0], (3, 2), r"one label per point, shape \(3,\), got shape \(2,\)"),
        ([[1]], (1, 2), r"one label per point, shape \(1,\), got shape \(1, 1\)"),
        ([2], (1, 2), "got 2 or 3, which only exported graphs know"),
        ([5], (1, 2), r"got 5\."),
        ([0.5], (1, 2), r"got 0\.5\."),
        ([NAN], (1, 2), r"got nan\."),
        (None, (2,), r"got shape \(2,\)\. For one point pass \[\[x, y\]\]"),
        (None, (4, 3), r"point_coords must be \(x, y\) with shape .* got shape \(4, 3\)"),
        (None, (1, 1, 1, 2), r"got shape \(1, 1, 1, 2\)"),
    ],
)
def test_bad_labels_are_refused(
    labels: npt.ArrayLike | None, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompts(HW, point_coords=np.zeros(shape), point_labels=labels)


def test_a_mask_input_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 1, 128, 128\), one .* got shape \(1, 128,"):
        check_prompts(HW, boxes=BOXES, mask_input=np.zeros((1, 128, 128)))


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_mask_input_that_is_not_finite_is_refused(value: float) -> None:
    mask = np.zeros((1, 1, 4, 4))
    mask[0, 0, 2, 2] = value
    with pytest.raises(ValueError, match="mask_input must be finite logits"):
        check_prompts(HW, boxes=BOXES[:1], mask_input=mask, mask_input_hw=(4, 4))


ATOL = 1e-4  # float32 at coordinates below 256


def by_hand(x: float, y: float) -> tuple[float, float]:
    """The half-pixel rule of the contract."""
    return (x + 0.5) * 256 / 400 - 0.5, (y + 0.5) * 256 / 300 - 0.5


@pytest.mark.parametrize(
    ("xy", "expected"),
    [
        ((-0.5, -0.5), (-0.5, -0.5)),  # corners of the image are corners of the model frame
        ((399.5, 299.5), (255.5, 255.5)),
        ((199.5, 149.5), (127.5, 127.5)),  # so is the centre
        ((0, 0), (-0.18, 0.5 * 256 / 300 - 0.5)),  # centre of the first pixel
    ],
)
def test_the_half_pixel_rule(xy: tuple[float, float], expected: tuple[float, float]) -> None:
    moved = to_model_frame(np.array([xy], np.float32), HW, 256)
    np.testing.assert_allclose(moved, [expected], atol=ATOL)
    assert moved.dtype == np.float32


@given(
    width=st.integers(1, 8192), height=st.integers(1, 8192), x=st.floats(0, 1), y=st.floats(0, 1)
)
def test_what_is_inside_the_image_is_inside_the_model_frame(
    width: int, height: int, x: float, y: float
) -> None:
    xy = np.array([[x * width - 0.5, y * height - 0.5]], np.float32)
    moved = to_model_frame(xy, (height, width), 256)
    assert (moved >= -0.5 - ATOL).all()
    assert (moved <= 255.5 + ATOL).all()


def test_a_box_is_two_points_labelled_2_and_3_without_padding() -> None:
    (group,) = decoder_prompts(check_prompts(HW, boxes=[[10, 20, 200, 220]]), 256)
    np.testing.assert_allclose(
        group.point_coords, [[by_hand(10, 20), by_hand(200, 220)]], atol=ATOL
    )
    np.testing.assert_array_equal(group.point_labels, [[2, 3]])
    assert group.point_coords.dtype == group.point_labels.dtype == np.float32


def test_points_without_box_are_followed_by_one_padding_point() -> None:
    prompts = check_prompts(HW, point_coords=[[10, 20], [30, 40]], point_labels=[1, 0])
    (group,) = decoder_prompts(prompts, 256)
    np.testing.assert_allclose(
        group.point_coords, [[by_hand(10, 20), by_hand(30, 40), (0, 0)]], atol=ATOL
    )
    np.testing.assert_array_equal(group.point_labels, [[1, 0, -1]])


def test_the_corners_of_a_box_come_before_its_points() -> None:
    prompts = check_prompts(
        HW, boxes=[[10, 20, 200, 220]], point_coords=[[30, 40]], point_labels=[0]
    )
    (group,) = decoder_prompts(prompts, 256)
    np.testing.assert_allclose(
        group.point_coords, [[by_hand(10, 20), by_hand(200, 220), by_hand(30, 40)]], atol=ATOL
    )
    np.testing.assert_array_equal(group.point_labels, [[2, 3, 0]])


def test_prompts_with_different_numbers_of_points_never_pad_one_another() -> None:
    prompts = check_prompts(
        HW,
        boxes=[[0, 0, 10, 10], [0, 0, 20, 20], [0, 0, 30, 30]],
        point_coords=[[[1, 1], [0, 0]], [[2, 2], [3, 3]], [[0, 0], [4, 4]]],
        point_labels=[[1, -1], [1, 0], [-1, 0]],
    )
    groups = list(decoder_prompts(prompts, 256))
    assert [group.rows.tolist() for group in groups] == [[0, 2], [1]]
    np.testing.assert_array_equal(groups[0].point_labels, [[2, 3, 1], [2, 3, 0]])
    np.testing.assert_array_equal(groups[1].point_labels, [[2, 3, 1, 0]])
    np.testing.assert_allclose(groups[0].point_coords[1, 2], by_hand(4, 4), atol=ATOL)


def test_many_prompts_are_run_in_several_groups_that_hold_each_once() -> None:
    count = 2 * MAX_PROMPTS_PER_RUN + 3
    prompts = check_prompts(HW, boxes=[[index, 0, index + 9, 9] for index in range(count)])
    groups = list(decoder_prompts(prompts, 256))
    assert [len(group.rows) for group in groups] == [MAX_PROMPTS_PER_RUN, MAX_PROMPTS_PER_RUN, 3]
    assert np.concatenate([group.rows for group in groups]).tolist() == list(range(count))


def test_no_prompt_is_an_error() -> None:
    for prompts in ({}, {"boxes": np.zeros((0, 4))}, {"point_coords": np.zeros((0, 3, 2))}):
        with pytest.raises(ValueError, match="no prompt was given"):
            check_prompts(HW, **prompts)


def test_a_prompt_of_padding_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="prompt 1 has no box and no point"):
        check_prompts(HW, point_coords=[[[5, 5]], [[6, 6]]], point_labels=[[1], [-1]])


def test_background_points_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt 1 has only background points"):
        check_prompts(
            (100, 100),
            point_coords=[[[1, 1], [2, 2]], [[3, 3], [4, 4]]],
            point_labels=[[1, 0], [0, -1]],
        )


def test_both_labels_on_one_pixel_are_refused() -> None:
    points = [[[10.4, 20.0], [9.6, 20.3]]]
    with pytest.raises(ValueError, match=r"prompt 0 .* one pixel, \(10, 20\)"):
        check_prompts((100, 100), point_coords=points, point_labels=[[1, 0]])
    check_prompts((100, 100), point_coords=points, point_labels=[[1, 1]])


def test_rows_of_unequal_length_are_named_in_our_words() -> None:
    with pytest.raises(ValueError, match=r"point_coords must have rows of equal length.*label -1"):
        check_prompts((100, 100), point_coords=[[[1, 1]], [[2, 2], [3, 3]]])


def test_no_points_at_all_are_no_prompt() -> None:
    with pytest.raises(ValueError, match="prompt 0 has no box and no point"):
        check_prompts(HW, point_coords=np.zeros((0, 2)))


def test_labels_without_points_are_an_error() -> None:
    with pytest.raises(ValueError, match="point_labels were given without point_coords"):
        check_prompts(HW, boxes=[[1, 2, 3, 4]], point_labels=[1])


def test_points_for_another_number_of_boxes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"2 boxes and points for 1 prompts.*\(2, P, 2\)"):
        check_prompts(HW, boxes=[[1, 2, 3, 4], [5, 6, 7, 8]], point_coords=[[5, 5]])


def test_boxes_may_come_with_padding_alone() -> None:
    prompts = check_prompts(HW, boxes=[[1, 2, 3, 4]], point_coords=[[[0, 0]]], point_labels=[[-1]])
    (group,) = decoder_prompts(prompts, 256)
    np.testing.assert_array_equal(group.point_labels, [[2, 3]])


def test_the_number_of_prompts_is_their_length() -> None:
    prompts: Prompts = check_prompts(HW, boxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    assert len(prompts) == 2
