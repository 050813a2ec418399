"""Encoding, seen through an independent decoding."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.errors import OutputFileError
from samus_edge.runtime.images.overlay import (
    _COLOURS,
    OverlayItem,
    calliper_text,
    draw_overlay,
    encode_image,
    mask_image,
)
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing, measure_lesion


def test_grey_is_kept() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = encode_image(Path("x.PNG"), image)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, image)


def test_rgb_is_written_as_rgb() -> None:
    red = np.array([[[255, 0, 0]]], np.uint8)
    content = encode_image(Path("x.png"), red)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, [[[0, 0, 255]]])  # OpenCV's order is BGR


@pytest.mark.parametrize(
    ("name", "signature"), [("x.png", b"\x89PNG"), ("x.jpg", b"\xff\xd8"), ("x.JPEG", b"\xff\xd8")]
)
def test_the_suffix_names_the_format(name: str, signature: bytes) -> None:
    assert encode_image(Path(name), np.zeros((8, 8), np.uint8)).startswith(signature)


def test_what_opencv_cannot_encode_is_named() -> None:
    with pytest.raises(OutputFileError, match=r"x\.nothing cannot be encoded"):
        encode_image(Path("x.nothing"), np.zeros((8, 8), np.uint8))


def test_one_mask_is_black_and_white() -> None:
    np.testing.assert_array_equal(mask_image(np.array([[[True, False]]])), [[255, 0]])


def test_several_masks_are_labels_and_the_later_lies_on_top() -> None:
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], np.bool_)
    image = mask_image(masks)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, [[1, 2, 2, 0]])


def test_more_masks_than_labels_are_refused() -> None:
    assert mask_image(np.ones((255, 1, 1), np.bool_)).item() == 255
    with pytest.raises(ValueError, match="at most 255 masks, got 256"):
        mask_image(np.ones((256, 1, 1), np.bool_))


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


def test_crosses_are_at_the_ends_and_the_rest_is_as_before() -> None:
    mask = np.zeros((400, 900), np.bool_)
    mask[150:250, 200:700] = True
    found = measure_lesion(mask, PixelSpacing.square(0.1))
    assert found is not None
    image = np.full((400, 900), 90, np.uint8)
    without = draw_overlay(image, [OverlayItem(mask, "lesion")])
    drawn = draw_overlay(image, [OverlayItem(mask, "lesion", measurements=found)])
    changed = (drawn[:400, :900] != without[:400, :900]).any(axis=2)
    rows, columns = np.nonzero(changed)
    for x, y in (found.longest.start, found.longest.end, found.perpendicular.start):
        distances = np.hypot(columns - x, rows - y)
        assert distances.min() <= 2
    assert changed.mean() < 0.05
    assert drawn.shape[0] > without.shape[0]  # a line more in the legend


def test_a_lesion_over_the_whole_frame_stays_on_the_picture() -> None:
    mask = np.ones((30, 40), np.bool_)
    found = measure_lesion(mask)
    drawn = draw_overlay(
        np.zeros((30, 40), np.uint8), [OverlayItem(mask, "all", measurements=found)]
    )
    assert drawn.shape[1] >= 800


def test_the_legend_says_what_matters() -> None:
    mask = np.zeros((50, 50), np.bool_)
    mask[0:40, 10:20] = True
    in_mm, in_px = measure_lesion(mask, PixelSpacing.square(0.5)), measure_lesion(mask)
    assert in_mm is not None
    assert in_px is not None
    text = calliper_text(in_mm)
    # Between the middles of pixel sides in opposite corners: 9 columns, 40 rows.
    assert text.startswith("+ 20.5 mm at -77 deg (not parallel), x ")
    assert "width 5.0 mm, height 20.0 mm, height/width 4.00, area 100.0 mm2" in text
    assert "cut by the frame (top): at least that" in text
    assert "width 10 px, height 40 px, height/width 4.00, area 400 px2" in calliper_text(in_px)
