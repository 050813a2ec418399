"""What can be checked of a picture without looking at it."""

from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime.overlay import _COLOURS, OverlayItem, draw_overlay

FIRST_COLOUR, SECOND_COLOUR = _COLOURS[:2]


def square(hw: tuple[int, int], top: int, left: int, size: int) -> npt.NDArray[np.bool_]:
    """A mask with one square."""
    mask = np.zeros(hw, np.bool_)
    mask[top : top + size, left : left + size] = True
    return mask


def pixels_of(canvas: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Where a picture has this colour, or a darker shade of it as at the edge of a line."""
    values = canvas.astype(np.float64)
    brightness = np.linalg.norm(values, axis=2)
    along = values @ np.array(colour) / np.linalg.norm(colour)
    return np.asarray((brightness > 80) & (along > 0.99 * brightness))


def test_the_contour_is_where_the_mask_ends() -> None:
    image = np.full((1000, 1000), 60, np.uint8)
    mask = square((1000, 1000), 300, 400, 200)
    canvas = draw_overlay(image, [OverlayItem(mask, "a lesion")])
    rows, columns = np.nonzero(pixels_of(canvas[:1000], FIRST_COLOUR))
    # The first and last pixels inside, and half of a stroke of 2 around them.
    assert (columns.min(), columns.max()) == pytest.approx((400, 599), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((300, 499), abs=2)


def test_the_texture_inside_and_outside_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (900, 900), np.uint8)
    canvas = draw_overlay(image, [OverlayItem(square((900, 900), 300, 300, 300), "a lesion")])
    for part in (np.s_[320:580, 320:580], np.s_[:280, :900], np.s_[620:900, :900]):
        np.testing.assert_array_equal(canvas[part], np.repeat(image[part][..., None], 3, axis=2))


def test_the_legend_lies_below_the_image() -> None:
    image = np.zeros((900, 1000), np.uint8)
    canvas = draw_overlay(image, [OverlayItem(np.zeros((900, 1000), np.bool_), "x")], ["a note"])
    assert canvas.shape[0] > 900
    assert canvas.shape[1:] == (1000, 3)
    assert not canvas[:900].any()  # an empty mask draws nothing
    assert pixels_of(canvas[900:], FIRST_COLOUR).any()
    assert (canvas[900:] > 200).all(axis=2).any()  # bright text


@pytest.mark.parametrize(
    ("hw", "factor"),
    [
        ((900, 1000), 1),
        ((800, 10), 1),
        ((473, 561), 2),
        ((48, 64), 13),
        ((10, 10), 32),
        ((1, 1), 32),
    ],
)
def test_small_images_are_enlarged_by_a_whole_factor(hw: tuple[int, int], factor: int) -> None:
    canvas = draw_overlay(np.full(hw, 255, np.uint8), [OverlayItem(np.zeros(hw, np.bool_), "x")])
    height, width = hw[0] * factor, hw[1] * factor
    # The image's rows come first; where the legend is wider, the image is centred.
    left = (canvas.shape[1] - width) // 2
    assert (canvas[:height, left : left + width] == 255).all()
    assert (canvas[:height] == 255).sum() == 3 * height * width
    assert (canvas[height:] != 255).any(axis=2).all()


def test_a_prompt_is_drawn_in_the_frame_of_the_image() -> None:
    image = np.zeros((200, 300), np.uint8)  # enlarged by 3
    item = OverlayItem(
        np.zeros((200, 300), np.bool_), "x", box=(50, 40, 250, 160), points=[(150, 100, 1)]
    )
    canvas = draw_overlay(image, [item])[:600]
    rows, columns = np.nonzero(pixels_of(canvas, FIRST_COLOUR))
    # A pixel's centre c is at (c + 0.5) * 3 - 0.5.
    assert (columns.min(), columns.max()) == pytest.approx((151, 751), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((121, 481), abs=1)
    green = np.argwhere(pixels_of(canvas, (0, 230, 118))).mean(axis=0)
    assert green == pytest.approx((301, 451), abs=1)


def test_the_box_is_dashed_and_its_corners_are_drawn() -> None:
    image = np.zeros((1000, 1000), np.uint8)
    item = OverlayItem(np.zeros((1000, 1000), np.bool_), "x", box=(100, 200, 700, 800))
    top = pixels_of(draw_overlay(image, [item]), FIRST_COLOUR)[200, 100:701]
    assert top[2] and top[-3]
    assert 0.3 < top.mean() < 0.7


def test_foreground_and_background_points_differ() -> None:
    image = np.zeros((1000, 1000), np.uint8)
    empty = np.zeros((1000, 1000), np.bool_)
    item = OverlayItem(empty, "x", points=[(200, 200, 1), (700, 700, 0)])
    canvas = draw_overlay(image, [item])
    assert canvas[206, 204].tolist() == [0, 230, 118]
    assert canvas[200, 200].tolist() == [0, 0, 0]  # the sign inside the disc
    assert pixels_of(canvas[650:750, 650:750], (255, 82, 82)).any()


def test_several_masks_have_their_own_colour_and_number() -> None:
    image = np.zeros((1000, 1000), np.uint8)
    masks = [square((1000, 1000), 200, 200, 200), square((1000, 1000), 600, 600, 200)]
    canvas = draw_overlay(image, [OverlayItem(mask, "x") for mask in masks])
    assert pixels_of(canvas[150:450, 150:450], FIRST_COLOUR).any()
    assert pixels_of(canvas[550:850, 550:850], SECOND_COLOUR).any()
    # The number's plate covers what is up and left of the first square.
    plate = canvas[180:200, 180:200]
    assert plate.any()


def test_colours_are_told_apart() -> None:
    """CIE76 distance in Lab of at least 25 between any two; 2.3 is just noticeable."""
    colours = np.array([_COLOURS], np.float32) / 255
    lab = cv2.cvtColor(colours, cv2.COLOR_RGB2Lab)[0]
    assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 25
    # On black and dark grey: all are bright.
    assert lab[:, 0].min() > 60


def test_many_masks_do_not_make_an_endless_legend() -> None:
    image = np.zeros((300, 300), np.uint8)
    few = draw_overlay(image, [OverlayItem(square((300, 300), 9, 9, 9), "x")] * 17)
    many = draw_overlay(image, [OverlayItem(square((300, 300), 9, 9, 9), "x")] * 300)
    assert many.shape == few.shape


def test_the_input_is_not_drawn_on() -> None:
    image = np.full((900, 900), 60, np.uint8)
    mask = square((900, 900), 300, 300, 200)
    draw_overlay(image, [OverlayItem(mask, "x", box=(1, 2, 300, 400))])
    assert (image == 60).all()
    np.testing.assert_array_equal(mask, square((900, 900), 300, 300, 200))
