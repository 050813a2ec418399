"""Points and several boxes."""

import numpy as np
import pytest

from samus_edge.runtime.point_assignment import assign_points_to_boxes

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
