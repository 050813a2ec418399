"""Text on and below pictures."""

import numpy as np
import pytest

from samus_edge.runtime.images.canvas import draw_legend, draw_tag, text_height_px

BLUE = (0, 0, 255)


@pytest.mark.parametrize(
    ("size_wh", "height_px"),
    [((100, 100), 11), ((1000, 1000), 15), ((4000, 3000), 51), ((40000, 1), 11)],
)
def test_text_grows_with_the_area_and_stays_readable(
    size_wh: tuple[int, int], height_px: int
) -> None:
    assert text_height_px(size_wh) == height_px


def test_the_picture_is_kept_and_centred_over_a_wider_legend() -> None:
    picture = np.full((50, 20, 3), 200, np.uint8)
    result = draw_legend(picture, [(BLUE, "a rather long caption")], ["a note"], 12)
    left = (result.shape[1] - 20) // 2
    assert left > 20
    np.testing.assert_array_equal(result[:50, left : left + 20], picture)
    assert result[:50, : left - 1].max() < 50  # dark on both sides


def test_every_line_fits_its_legend() -> None:
    lines = [(BLUE, "g" * 30)] * 3
    result = draw_legend(np.zeros((10, 10, 3), np.uint8), lines, ["y" * 40], 14)
    # A margin of dark pixels right of and below the text.
    assert result[10:, -7:].max() < 50
    assert result[-2:].max() < 50


def test_text_outside_ascii_is_replaced() -> None:
    picture = np.full((40, 40, 3), 200, np.uint8)
    tagged = [picture.copy(), picture.copy()]
    for canvas, text in zip(tagged, ("?", "\u56fe"), strict=True):
        draw_tag(canvas, text, (40, 40), BLUE, 12)
    np.testing.assert_array_equal(*tagged)


@pytest.mark.parametrize("anchor", [(0, 0), (100, 100), (-50, 20), (500, 500)])
def test_a_tag_stays_on_the_picture(anchor: tuple[int, int]) -> None:
    picture = np.full((100, 100, 3), 200, np.uint8)
    draw_tag(picture, "7", anchor, BLUE, 12)
    changed = (picture != 200).any(axis=2)
    assert changed.sum() >= 20 * 15  # the whole plate
    assert (picture[changed].astype(int) @ [-1, -1, 1] > 60).any()  # something blue on it
