"""Callipers beside plain searches with SciPy's interpolation, by formula, and of hard masks."""

import math
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import map_coordinates
from skimage.measure import find_contours

from samus_edge.jobs.record import mask_record
from samus_edge.runtime.measurement.lesion_measurements import (
    LesionMeasurements,
    PixelSpacing,
    measure_lesion,
)

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
# They walk at other steps, and OpenCV interpolates at 1/32 of a pixel.
LENGTH_TOLERANCE_PX = 0.25


def grid(side: int) -> tuple[Points, Points]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2 + 0.2
    return x, y


def disc(side: int = 30) -> Mask:
    x, y = grid(side)
    return np.asarray(np.hypot(x, y) < side * 0.45)


def ring(side: int = 40) -> Mask:
    x, y = grid(side)
    return disc(side) & (np.hypot(x, y) > side * 0.25)


def crescent(side: int = 44) -> Mask:
    x, y = grid(side)
    return disc(side) & (np.hypot(x - side * 0.2, y + 2) > side * 0.38)


def l_shape(side: int = 40) -> Mask:
    x, y = grid(side)
    return np.asarray((np.abs(x) < 15) & (np.abs(y) < 16) & ((x < -6) | (y > 8)))


def ellipse(side: int = 44) -> Mask:
    x, y = grid(side)
    return np.asarray(((x * 0.8 + y * 0.6) / 19) ** 2 + ((y * 0.8 - x * 0.6) / 8) ** 2 <= 1)


def with_holes(side: int = 40) -> Mask:
    mask = disc(side)
    mask[19:21, 12:15] = mask[10:14, 22:25] = mask[25:28, 24:30] = False
    return mask


def blob(seed: int, side: int = 36) -> Mask:
    """The largest part of a smooth random field, mostly with bays and holes."""
    generator = np.random.default_rng(seed)
    field = cv2.resize(generator.random((7, 7)), (side, side), interpolation=cv2.INTER_CUBIC)
    return largest(np.asarray(field) > 0.5)


def largest(mask: Mask) -> Mask:
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return np.asarray(labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA])))


SHAPES: dict[str, Callable[[], Mask]] = {
    "disc": disc,
    "ring": ring,
    "crescent": crescent,
    "L": l_shape,
    "ellipse": ellipse,
    "holes": with_holes,
    **{f"blob {seed}": partial(blob, seed) for seed in range(8)},
}
SPACINGS = [None, PixelSpacing(0.1, 0.1), PixelSpacing(0.3, 0.1), PixelSpacing(0.08, 0.2)]


def measured(mask: Mask, spacing: PixelSpacing | None = None) -> LesionMeasurements:
    found = measure_lesion(mask, spacing)
    assert found is not None
    return found


def interpolated(mask: Mask, x: Points, y: Points) -> Points:
    values = map_coordinates(mask.astype(float), [y, x], order=1, mode="grid-constant")
    return np.asarray(values)


def scale_of(spacing: PixelSpacing | None) -> Points:
    return np.array([1.0, 1.0] if spacing is None else [spacing.column_mm, spacing.row_mm])


def longest_by_trying_all(mask: Mask, scale: Points) -> float:
    """All pairs of the outlines' points, each line at steps of a quarter of a pixel."""
    outlines = find_contours(np.pad(mask, 1).astype(float), 0.5)  # type: ignore[no-untyped-call]
    ends = np.unique(np.concatenate(outlines), axis=0)[:, ::-1] - 1
    first, second = np.triu_indices(len(ends), 1)
    lengths = np.linalg.norm((ends[first] - ends[second]) * scale, axis=1)
    parts = np.linspace(0, 1, 4 * max(mask.shape))
    for index in np.argsort(-lengths):
        start, stop = ends[first[index]], ends[second[index]]
        line = start + parts[:, None] * (stop - start)
        if interpolated(mask, line[:, 0], line[:, 1]).min() >= 0.25:
            return float(lengths[index])
    raise AssertionError("no line is inside")


def perpendicular_by_walking(mask: Mask, found: LesionMeasurements, scale: Points) -> float:
    """From many points of the axis, small steps both ways until the lesion ends."""
    start, stop = np.array(found.longest.start), np.array(found.longest.end)
    along = (stop - start) * scale
    step = np.array([-along[1], along[0]]) / scale
    step *= 0.02 / np.abs(step).max()
    steps = np.arange(int(50 * 1.5 * max(mask.shape)))
    best = 0.0
    for part in np.linspace(0, 1, 10 * max(mask.shape)):
        total = 0
        for sign in (1, -1):
            walk = start + part * (stop - start) + sign * steps[:, None] * step
            values = interpolated(mask, walk[:, 0], walk[:, 1])
            end = int(np.argmax(values < 0.25))
            inside = np.flatnonzero(values[:end] >= 0.5)
            total += int(inside[-1]) if len(inside) else 0
        best = max(best, total * float(np.linalg.norm(step * scale)))
    return best


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_as_by_trying_all_lines(shape: str, spacing: PixelSpacing | None) -> None:
    mask, scale = SHAPES[shape](), scale_of(spacing)
    found = measured(mask, spacing)
    tolerance = LENGTH_TOLERANCE_PX * scale.max()
    assert found.longest.length == pytest.approx(longest_by_trying_all(mask, scale), abs=tolerance)
    assert found.longest_at_most == pytest.approx(found.longest.length, rel=1e-9)
    if not shape.startswith("blob"):  # whose bays a line just passes or just does not
        expected = perpendicular_by_walking(mask, found, scale)
        assert found.perpendicular.length == pytest.approx(expected, abs=tolerance)
    check_callipers(mask, found, scale)


def check_callipers(mask: Mask, found: LesionMeasurements, scale: Points) -> None:
    """Both are inside all along, their lengths are right, and they cross at a right angle."""
    ends = np.array([(line.start, line.end) for line in (found.longest, found.perpendicular)])
    for line, (start, stop) in zip((found.longest, found.perpendicular), ends, strict=True):
        assert line.length == pytest.approx(float(np.linalg.norm((stop - start) * scale)))
        x, y = (start + np.linspace(0, 1, 8 * max(mask.shape))[:, None] * (stop - start)).T
        # Above 0 only within a pixel of a pixel's centre: half a pixel from the pixel itself.
        assert interpolated(largest(mask), x, y).min() > 0
    along, across = (ends[:, 1] - ends[:, 0]) * scale
    size = float(np.linalg.norm(along) * np.linalg.norm(across))
    assert abs(along @ across) <= 1e-6 * size
    parts = np.linalg.solve(
        np.stack([ends[0, 1] - ends[0, 0], ends[1, 0] - ends[1, 1]], axis=1),
        ends[1, 0] - ends[0, 0],
    )
    assert (parts > -1e-6).all()
    assert (parts < 1 + 1e-6).all()
    assert found.perpendicular.length <= found.longest.length * (1 + 1e-9)
    assert found.longest.length <= found.longest_at_most * (1 + 1e-9)


def comb(side: int) -> Mask:
    mask = np.ones((side, side), np.bool_)
    mask[side // 9 :, 1::3] = False
    return mask


def spiral(side: int) -> Mask:
    x, y = grid(side)
    turn = np.arctan2(y, x) / (2 * math.pi) * side / 20
    inside = np.mod(np.hypot(x, y) - turn, side / 20) < side / 40
    return largest(np.asarray(inside & (np.hypot(x, y) < side * 0.48)))


def checkerboard(side: int) -> Mask:
    return np.asarray(np.add.outer(np.arange(side), np.arange(side)) % 2 == 0)


def line(side: int) -> Mask:
    mask = np.zeros((side, side), np.uint8)
    cv2.line(mask, (3, 5), (side - 4, round(side * 0.37)), 1)
    return mask > 0


def noise(share: float) -> Callable[[int], Mask]:
    return lambda side: largest(np.random.default_rng(3).random((side, side)) < share)


HARD: dict[str, Callable[[int], Mask]] = {
    "comb": comb,
    "spiral": spiral,
    "ring": ring,
    "crescent": crescent,
    "checkerboard": checkerboard,
    "line": line,
    "row": lambda side: np.ones((1, side), np.bool_),
    "diagonal": lambda side: np.eye(side, dtype=np.bool_),
    "full": lambda side: np.ones((side, side), np.bool_),
    "noise 0.5": noise(0.5),
    "noise 0.7": noise(0.7),
    "noise 0.95": noise(0.95),
}


@pytest.mark.parametrize("spacing", [None, PixelSpacing(0.005, 2)], ids=str)
@pytest.mark.parametrize("shape", HARD)
def test_hard_masks_end_soon_and_say_how_sure_they_are(
    shape: str, spacing: PixelSpacing | None
) -> None:
    mask = HARD[shape](400)
    begun = time.process_time()
    found = measured(mask, spacing)
    assert time.process_time() - begun < 2  # 0.1 s where nothing else runs
    check_callipers(mask, found, scale_of(spacing))


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        # A chord of the outer circle that touches the inner one.
        ("ring", 2 * math.sqrt(0.45**2 - 0.25**2)),
        ("crescent", 2 * math.sqrt(0.45**2 - (0.2 - 0.38) ** 2)),
        # Along the line; along the diagonal; between the middles of outer sides.
        ("line", math.hypot(393 / 400, (148 - 5) / 400)),
        ("diagonal", math.sqrt(2) * 399.5 / 400),
        ("row", 1.0),
    ],
)
def test_by_formula(shape: str, share: float) -> None:
    found = measured(HARD[shape](400))
    assert found.longest.length == pytest.approx(400 * share, abs=2)
    assert found.longest_at_most <= found.longest.length * 1.02


@pytest.mark.parametrize(("height", "width"), [(1, 40_000), (33_000, 3), (700, 6_000)])
def test_lesions_larger_than_opencv_takes(height: int, width: int) -> None:
    found = measured(np.ones((height, width), np.bool_))
    block = -(-max(height, width) // 4000)
    diagonal = math.hypot(height, width)
    across = min(height, width) * diagonal / max(height, width)  # from one long side to the other
    assert found.longest.length == pytest.approx(diagonal, abs=2 * block)
    assert found.perpendicular.length == pytest.approx(across, abs=2 * block)


def test_a_search_that_was_cut_short_says_so() -> None:
    mask = noise(0.7)(400)
    found = measured(mask)
    assert found.longest_at_most > 1.2 * found.longest.length
    assert found.orientation == "undetermined"
    assert [note.code for note in mask_record(mask, 0.9, None).notes] == ["longest_axis_uncertain"]
    assert mask_record(crescent(), 0.9, None).notes == ()


@pytest.mark.parametrize(
    ("height", "width", "spacing", "angle", "orientation"),
    [
        (12, 40, None, 0, "parallel"),
        (40, 12, None, 90, "not parallel"),
        (30, 30, None, None, "undetermined"),
        (12, 40, PixelSpacing(1.0, 0.1), 90, "not parallel"),
    ],
)
def test_orientation(
    height: int,
    width: int,
    spacing: PixelSpacing | None,
    angle: float | None,
    orientation: str,
) -> None:
    x, y = grid(60)
    found = measured(np.asarray((x / width) ** 2 + (y / height) ** 2 <= 0.25), spacing)
    assert found.orientation == orientation
    if angle is not None:
        assert abs(found.angle_deg) == pytest.approx(angle, abs=8)


def test_the_angle_is_positive_where_the_axis_rises_to_the_right() -> None:
    mask = np.zeros((60, 60), np.uint8)
    cv2.line(mask, (5, 50), (55, 20), 1, 5)  # y grows down
    expected = math.degrees(math.atan2(30, 50))
    assert measured(mask > 0).angle_deg == pytest.approx(expected, abs=3)
    assert measured(mask[:, ::-1] > 0).angle_deg == pytest.approx(-expected, abs=3)
