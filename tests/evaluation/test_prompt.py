"""Prompts as arrays, and in the frame of a resized image."""

import numpy as np

from samus_edge.evaluation.prompt import Prompt, prompt_arrays, scale_prompt


def box(*xyxy: float) -> Prompt:
    return Prompt(box=np.array(xyxy, np.float32))


def point(x: float, y: float) -> Prompt:
    return Prompt(points=np.array([[x, y]], np.float32))


def test_prompts_are_stacked_by_kind() -> None:
    boxes = prompt_arrays([box(1, 2, 3, 4), box(5, 6, 7, 8)])
    np.testing.assert_array_equal(boxes.boxes, [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert boxes.point_coords is None and boxes.point_labels is None
    points = prompt_arrays([point(1, 2), point(3, 4)])
    assert points.boxes is None
    np.testing.assert_array_equal(points.point_coords, [[[1, 2]], [[3, 4]]])
    np.testing.assert_array_equal(points.point_labels, [[1], [1]])
    both = prompt_arrays([Prompt(box(1, 2, 3, 4).box, point(2, 3).points)])
    assert both.boxes is not None and both.boxes.shape == (1, 4)
    assert both.point_coords is not None and both.point_coords.shape == (1, 1, 2)


def test_coordinates_are_written_box_first() -> None:
    both = Prompt(box(1, 2, 3, 4).box, point(2.346, 3).points)
    assert both.coords_text == "1.00 2.00 3.00 4.00 2.35 3.00"
    assert point(5, 6).coords_text == "5.00 6.00"


def test_the_same_place_of_the_resized_image_is_prompted() -> None:
    # Corners of pixels, at half coordinates, scale about the image's corner at (-0.5, -0.5).
    scaled = scale_prompt(box(-0.5, 9.5, 39.5, 29.5), (60, 80), (30, 160))
    assert scaled.box is not None
    np.testing.assert_allclose(scaled.box, [-0.5, 4.5, 79.5, 14.5])
    assert scaled.points.shape == (0, 2)
    scaled = scale_prompt(point(39.5, 29.5), (60, 80), (30, 160))  # the middle stays the middle
    np.testing.assert_allclose(scaled.points, [[79.5, 14.5]])
    assert scaled.box is None


def test_an_unchanged_size_changes_nothing() -> None:
    prompt = box(1.23, 4.56, 7.89, 10.11)
    np.testing.assert_array_equal(scale_prompt(prompt, (60, 80), (60, 80)).box, prompt.box)
