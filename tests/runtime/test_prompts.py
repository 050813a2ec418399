"""Frames, and the rows that the decoder takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samus_edge.runtime.prompts import (
    MAX_PROMPTS_PER_RUN,
    Prompts,
    check_prompts,
    decoder_prompts,
    to_model_frame,
)

HW = (300, 400)  # model frame 256 x 256: x by 0.64, y by 256 / 300
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
