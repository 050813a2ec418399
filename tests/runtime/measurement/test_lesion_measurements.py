"""Sizes from masks: by hand, by formula, and beside scikit-image."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from skimage.measure import find_contours, perimeter_crofton, regionprops

from samus_edge.runtime.measurement.lesion_measurements import (
    BreastLocation,
    LesionMeasurements,
    PixelSpacing,
    measure_lesion,
)

Mask = npt.NDArray[np.bool_]


def rectangle(height: int, width: int, hw: tuple[int, int] = (60, 80)) -> Mask:
    """With its upper left pixel at (10, 12)."""
    mask = np.zeros(hw, np.bool_)
    mask[12 : 12 + height, 10 : 10 + width] = True
    return mask


def ellipse(a: float, b: float, degrees: float = 0.0, side: int = 400) -> Mask:
    """Semi-axes a and b, turned, not quite on the grid."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.3
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    inside: Mask = ((x * c + y * s) / a) ** 2 + ((y * c - x * s) / b) ** 2 <= 1
    return inside


def ellipse_perimeter(a: float, b: float) -> float:
    """Ramanujan's second approximation, exact to 1e-5 here."""
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def measured(mask: Mask, spacing: PixelSpacing | None = None) -> LesionMeasurements:
    """Of a mask that is not empty."""
    found = measure_lesion(mask, spacing)
    assert found is not None
    return found


def test_a_rectangle_by_hand() -> None:
    found = measured(rectangle(20, 40))
    assert (found.unit, found.area, found.hole_area) == ("px", 800.0, 0.0)
    assert (found.width, found.height) == (40.0, 20.0)
    assert (found.height_to_width, found.orientation) == (0.5, "parallel")
    assert found.centroid == (29.5, 21.5)
    assert found.equivalent_diameter == pytest.approx(2 * math.sqrt(800 / math.pi))
    # between the middles of the outer sides of opposite corners
    assert found.longest.length == pytest.approx(math.hypot(40, 19))
    assert found.perimeter == pytest.approx(120, rel=0.05)
    assert found.cut_by == ()


def test_spacing_scales_each_direction() -> None:
    found = measured(rectangle(20, 40), PixelSpacing(row_mm=0.2, column_mm=0.05))
    assert found.unit == "mm"
    assert found.area == pytest.approx(800 * 0.01)
    assert found.width == pytest.approx(2.0)
    assert found.height == pytest.approx(4.0)
    assert (found.height_to_width, found.orientation) == (2, "not parallel")
    assert found.longest.length == pytest.approx(math.hypot(39 * 0.05, 4.0))
    (x1, y1), (x2, y2) = found.longest.start, found.longest.end
    assert math.hypot((x2 - x1) * 0.05, (y2 - y1) * 0.2) == pytest.approx(found.longest.length)


def test_one_pixel() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[2, 3] = True
    found = measured(mask)
    assert (found.area, found.width, found.height) == (1, 1, 1)
    assert (found.longest.length, found.perpendicular.length) == (1, 1)
    assert found.centroid == (3, 2)
    assert found.perimeter == pytest.approx(4 * math.sqrt(0.5))


@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 73, 90])
@pytest.mark.parametrize(("a", "b"), [(20, 12), (60, 20), (150, 50)])
def test_ellipses_by_formula(a: float, b: float, degrees: float) -> None:
    found = measured(ellipse(a, b, degrees), PixelSpacing.square(0.1))
    # half a pixel at either end
    assert found.longest.length == pytest.approx(0.2 * a, abs=0.1)
    assert found.perpendicular.length == pytest.approx(0.2 * b, abs=0.1)
    assert found.area == pytest.approx(math.pi * a * b * 0.01, rel=0.02)
    assert found.perimeter == pytest.approx(0.1 * ellipse_perimeter(a, b), rel=0.012)
    radians = math.radians(degrees)
    # The helper turns to where y grows, which is down: what is positive there falls to the right.
    away = (found.angle_deg + degrees + 90) % 180 - 90
    # A diameter that is turned by so much is shorter by a pixel.
    assert abs(away) < math.degrees(math.sqrt(1 / (a * ((a / b) ** 2 - 1))))
    assert found.width == pytest.approx(
        0.2 * math.hypot(a * math.cos(radians), b * math.sin(radians)), abs=0.1
    )
    assert found.height == pytest.approx(
        0.2 * math.hypot(a * math.sin(radians), b * math.cos(radians)), abs=0.1
    )


def test_stretched_pixels_give_the_same_ellipse() -> None:
    round_pixels = measured(ellipse(60, 60), PixelSpacing.square(0.2))
    y, x = np.mgrid[:400, :400] - 200 + 0.3
    squeezed = (x / 30) ** 2 + (y / 120) ** 2 <= 1
    found = measured(squeezed, PixelSpacing(row_mm=0.1, column_mm=0.4))
    assert found.perimeter == pytest.approx(round_pixels.perimeter, rel=0.03)
    assert found.longest.length == pytest.approx(24, abs=0.4)
    assert found.perpendicular.length == pytest.approx(24, abs=0.4)
    assert found.area == pytest.approx(math.pi * 144, rel=0.01)


def test_the_largest_component_is_measured_and_the_others_are_counted() -> None:
    mask = rectangle(20, 40)
    mask[50:55, 5:10] = True
    mask[2, 70] = mask[3, 71] = True  # together: they touch at a corner
    found = measured(mask)
    assert (found.components, found.area, found.other_area) == (3, 800, 27)
    assert (found.width, found.height) == (40, 20)


def test_holes_are_not_lesion_and_are_reported() -> None:
    mask = rectangle(20, 40)
    mask[15:19, 20:25] = False
    found = measured(mask)
    assert (found.area, found.hole_area) == (780, 20)
    assert found.perimeter == pytest.approx(measured(rectangle(20, 40)).perimeter)
    mask[12:15, 22] = False  # a way out: no hole any more
    assert measured(mask).hole_area == 0


@pytest.mark.parametrize(
    ("rows", "columns", "sides"),
    [
        ((0, 20), (10, 30), ("top",)),
        ((10, 60), (10, 30), ("bottom",)),
        ((10, 20), (0, 30), ("left",)),
        ((10, 20), (10, 80), ("right",)),
        ((0, 60), (0, 80), ("left", "top", "right", "bottom")),
    ],
)
def test_lesions_cut_by_the_frame_say_where(
    rows: tuple[int, int], columns: tuple[int, int], sides: tuple[str, ...]
) -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[slice(*rows), slice(*columns)] = True
    assert measured(mask).cut_by == sides


def test_an_empty_mask_has_no_sizes() -> None:
    assert measure_lesion(np.zeros((4, 5), np.bool_)) is None


@pytest.mark.parametrize("mask", [np.zeros((4, 5), np.uint8), np.zeros((1, 4, 5), np.bool_)])
def test_what_is_no_mask_is_refused(mask: npt.NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match="mask must be bool"):
        measure_lesion(mask)


@pytest.mark.parametrize("values", [(0, 1), (1, -1), (math.nan, 1), (1, math.inf)])
def test_impossible_spacings_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two positive numbers"):
        PixelSpacing(*values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs a side"),
        ({"side": "top", "clock": 0}, "left or right, got 'top'; .* 1 to 12, got 0"),
        ({"nipple_mm": math.nan}, "from the nipple must be 0 to 500 mm, got nan"),
        ({"depth_mm": -1}, "depth must be 0 to 500 mm, got -1"),
    ],
)
def test_impossible_locations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BreastLocation(**values)


def blob(seed: int, side: int = 160) -> Mask:
    """A wobbly outline around the middle."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    angle = np.arctan2(y, x)
    radius = np.full_like(angle, 40.0)
    for order in range(1, 6):
        amplitude, phase = generator.normal(0, 6 / order), generator.uniform(0, 2 * math.pi)
        radius += amplitude * np.cos(order * angle + phase)
    inside: Mask = np.hypot(x, y) < radius
    return inside


@pytest.mark.parametrize("seed", range(8))
def test_as_scikit_image_where_definitions_agree(seed: int) -> None:
    mask = blob(seed)
    found = measured(mask)
    (region,) = regionprops(mask.astype(np.uint8))  # type: ignore[no-untyped-call]
    assert found.area == region.area
    assert found.equivalent_diameter == pytest.approx(region.equivalent_diameter_area)
    # Its own Feret diameter is of the hull as an image, up to a pixel longer.
    (outline,) = find_contours(mask.astype(float), 0.5)  # type: ignore[no-untyped-call]
    assert found.longest.length == pytest.approx(pdist(outline).max())
    assert found.longest.length == pytest.approx(region.feret_diameter_max, abs=1)
    assert found.centroid == pytest.approx(region.centroid[::-1])
    top, left, bottom, right = region.bbox
    assert (found.width, found.height) == (right - left, bottom - top)
    crofton = perimeter_crofton(mask, 4)  # type: ignore[no-untyped-call]
    assert found.perimeter == pytest.approx(crofton, rel=0.02)


@given(st.integers(0, 10_000), st.integers(0, 20), st.integers(0, 20))
def test_moving_a_lesion_changes_no_size(seed: int, down: int, across: int) -> None:
    mask = np.pad(blob(seed, 130), 25)
    moved = np.roll(mask, (down, across), (0, 1))
    a, b = measured(mask), measured(moved)
    for name in ("area", "perimeter", "width", "height", "hole_area"):
        assert getattr(a, name) == pytest.approx(getattr(b, name))
    assert a.longest.length == pytest.approx(b.longest.length)
    assert a.perpendicular.length == pytest.approx(b.perpendicular.length)


@given(st.lists(st.integers(0, 35), min_size=1, max_size=36))
def test_every_mask_has_finite_sizes_and_transposing_swaps_width_and_height(
    pixels: list[int],
) -> None:
    mask = np.zeros((6, 6), np.bool_)
    mask.flat[pixels] = True
    found, turned = measured(mask), measured(np.ascontiguousarray(mask.T))
    numbers = [found.area, found.perimeter, found.longest.length, found.perpendicular.length]
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert found.perpendicular.length <= found.longest.length + 1e-9
    if found.components == 1:
        assert (found.width, found.height) == (turned.height, turned.width)
        assert found.longest.length == pytest.approx(turned.longest.length)
