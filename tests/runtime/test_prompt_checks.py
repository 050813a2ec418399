"""Every kind of bad prompt has its one clear message, with the value in it."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime.prompt_checks import (
    check_boxes,
    check_mask_input,
    check_point_labels,
    check_points,
)

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
        (np.zeros((0, 4)), np.zeros((0, 4))),
    ],
)
def test_boxes_outside_the_image_are_clipped(boxes: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    checked = check_boxes(boxes, HW)
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
        check_boxes([[1, 2, 3, 4], box], HW)
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
        check_boxes(boxes, HW)


@pytest.mark.parametrize(
    "boxes", ["10,20,30,40", [["1", "2", "3", "4"]], [[None, 1, 2, 3]], [[True, False, True, True]]]
)
def test_boxes_that_are_no_numbers_are_refused(boxes: object) -> None:
    with pytest.raises(TypeError, match="boxes must be real numbers, got dtype"):
        check_boxes(boxes, HW)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize(
    "point", [(0, 0), (399, 299), (-0.5, -0.5), (399.5, 299.5), (0.25, 298.75)]
)
def test_points_are_inside_up_to_the_edge(point: tuple[float, float]) -> None:
    checked = check_points([point], np.array([[1]], np.int32), HW)
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
    labels = np.array([[1, 0]], np.int32)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_points(np.array([(5.0, 5.0), point]), labels, HW)


def test_coordinates_of_padding_are_ignored() -> None:
    labels = np.array([[1, -1]], np.int32)
    checked = check_points([[[5.0, 6.0], [NAN, 1e9]]], labels, HW)
    np.testing.assert_array_equal(checked, [[[5, 6], [0, 0]]])


def test_labels_get_the_shape_of_prompts() -> None:
    np.testing.assert_array_equal(check_point_labels([1, 0, -1], (3, 2)), [[1, 0, -1]])
    np.testing.assert_array_equal(check_point_labels([[1], [0]], (2, 1, 2)), [[1], [0]])
    np.testing.assert_array_equal(check_point_labels(None, (2, 3, 2)), np.ones((2, 3)))
    assert check_point_labels([1.0], (1, 2)).dtype == np.int32


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
        check_point_labels(labels, shape)


def test_a_mask_input_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 1, 128, 128\), one .* got shape \(1, 128,"):
        check_mask_input(np.zeros((1, 128, 128)), 2, (128, 128))


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_mask_input_that_is_not_finite_is_refused(value: float) -> None:
    mask = np.zeros((1, 1, 4, 4))
    mask[0, 0, 2, 2] = value
    with pytest.raises(ValueError, match="mask_input must be finite logits"):
        check_mask_input(mask, 1, (4, 4))
