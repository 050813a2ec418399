"""Ranges of shapes."""

import pytest

from samus_edge.runtime.tensorrt.engine_profiles import (
    ShapeRange,
    image_encoder_profile,
    mask_decoder_profile,
)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1,), (1, 2), (1, 2)), "same number of axes"),
        (((0,), (1,), (1,)), r"positive integers, got \(0,\)"),
        (((1.5,), (2,), (3,)), "positive integers"),
        (((True,), (2,), (3,)), "positive integers"),
        (((2,), (1,), (3,)), "smallest <= typical <= largest"),
        (((1, 1), (1, 4), (1, 3)), "smallest <= typical <= largest"),
    ],
)
def test_a_range_out_of_order_is_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeRange(*shapes)


def test_an_axis_with_one_size_is_fixed() -> None:
    sizes = ShapeRange((1, 64), (1, 100), (1, 128))
    assert [sizes.fixed_size(axis) for axis in (0, 1)] == [1, None]


def test_one_frame_size_is_the_only_one() -> None:
    assert image_encoder_profile((30, 40)) == {"image": ShapeRange.fixed((1, 30, 40))}


def test_the_largest_frame_is_the_typical_one_unless_said() -> None:
    profile = image_encoder_profile((30, 40), largest_hw=(60, 80))
    assert profile == {"image": ShapeRange((1, 30, 40), (1, 60, 80), (1, 60, 80))}


def test_the_inputs_of_the_decoder_share_their_numbers() -> None:
    profile = mask_decoder_profile((128, 96), typical_prompts=2, most_prompts=4, most_points=5)
    assert profile == {
        "point_coords": ShapeRange((1, 1, 2), (2, 2, 2), (4, 5, 2)),
        "point_labels": ShapeRange((1, 1), (2, 2), (4, 5)),
        "mask_input": ShapeRange((1, 1, 128, 96), (2, 1, 128, 96), (4, 1, 128, 96)),
        "has_mask_input": ShapeRange((1, 1), (2, 1), (4, 1)),
    }
