"""Diameters drawn on overlays."""

import numpy as np

from samus_edge.runtime.measurement.callipers import calliper_text
from samus_edge.runtime.measurement.lesion_measurements import measure_mask
from samus_edge.runtime.measurement.pixel_spacing import PixelSpacing
from samus_edge.runtime.overlay import OverlayItem, draw_overlay


def test_crosses_are_at_the_ends_and_the_rest_is_as_before() -> None:
    mask = np.zeros((400, 900), np.bool_)
    mask[150:250, 200:700] = True
    found = measure_mask(mask, PixelSpacing.square(0.1))
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
    found = measure_mask(mask)
    drawn = draw_overlay(
        np.zeros((30, 40), np.uint8), [OverlayItem(mask, "all", measurements=found)]
    )
    assert drawn.shape[1] >= 800


def test_the_legend_says_what_matters() -> None:
    mask = np.zeros((50, 50), np.bool_)
    mask[0:40, 10:20] = True
    in_mm, in_px = measure_mask(mask, PixelSpacing.square(0.5)), measure_mask(mask)
    assert in_mm is not None
    assert in_px is not None
    text = calliper_text(in_mm)
    assert "width 5.0 mm, height 20.0 mm, area 100.0 mm2" in text
    assert "taller than wide" in text
    assert "cut by the frame (top): at least that" in text
    assert "width 10 px, height 40 px, area 400 px2" in calliper_text(in_px)
