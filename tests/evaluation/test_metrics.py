"""Metrics against MONAI, scipy and hand-computed shapes."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from monai.metrics.surface_dice import compute_surface_dice
from scipy.spatial.distance import cdist, directed_hausdorff

from samus_edge.evaluation.metrics import (
    dice,
    hausdorff_distance,
    hausdorff_distance_95,
    iou,
    normalised_surface_dice,
    resize_mask,
    row_hausdorff_distance,
)

# MONAI 1.6 warns of an argument of its own that it passes itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")

Mask = npt.NDArray[np.bool_]

FLOAT32_DISTANCE = 1e-4
"""Pixels. OpenCV computes distances up to a few hundred pixels in float32."""

FLOAT32_SHARE = 1e-6
"""MONAI divides in float32."""


def blob(rng: np.random.Generator, side: int) -> Mask:
    """A ragged shape, often of several parts, some touching the border."""
    y, x = np.mgrid[:side, :side]
    cy, cx = rng.uniform(0.2, 0.8, 2) * side
    angle = np.arctan2(y - cy, x - cx)
    radius = side * rng.uniform(0.1, 0.3) * (1 + 0.4 * np.sin(rng.integers(2, 7) * angle))
    ragged = rng.random((side, side)) < 0.02
    return np.asarray((np.hypot(y - cy, x - cx) < radius) | (ragged & (angle > 2)))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Mask, Mask]]:
    """Twenty pairs of different shapes, the smallest of a few pixels."""
    rng = np.random.default_rng(0)
    return [(blob(rng, side), blob(rng, side)) for side in (8, 24, 64, 150) for _ in range(5)]


def test_overlaps_and_outlines_agree_with_monai(pairs: list[tuple[Mask, Mask]]) -> None:
    for a, b in pairs:
        inputs = torch.from_numpy(a)[None, None].float(), torch.from_numpy(b)[None, None].float()
        assert dice(a, b) == pytest.approx(float(compute_dice(*inputs)), abs=FLOAT32_SHARE)
        assert iou(a, b) == pytest.approx(float(compute_iou(*inputs)), abs=FLOAT32_SHARE)
        for tolerance_px in (0.0, 1.0, 2.0, 5.5):
            share = float(compute_surface_dice(*inputs, [tolerance_px], True))
            found = normalised_surface_dice(a, b, tolerance_px)
            assert found == pytest.approx(share, abs=FLOAT32_SHARE)
        hd95 = compute_hausdorff_distance(*inputs, include_background=True, percentile=95)
        assert hausdorff_distance_95(a, b) == pytest.approx(float(hd95), abs=FLOAT32_DISTANCE)


def test_hausdorff_distance_agrees_with_scipy(pairs: list[tuple[Mask, Mask]]) -> None:
    # Between all mask pixels, as scipy is given them; MONAI measures between outlines only.
    for a, b in pairs:
        points = np.argwhere(a), np.argwhere(b)
        expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
        assert hausdorff_distance(a, b) == pytest.approx(expected, abs=FLOAT32_DISTANCE)
        between = cdist(*points, "cityblock")
        farthest = max(between.min(axis=0).max(), between.min(axis=1).max())
        assert manhattan(a, b) == pytest.approx(farthest, abs=FLOAT32_DISTANCE)


Metric = Callable[[Mask, Mask], float]

PAIRS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda hw: st.tuples(hnp.arrays(np.bool_, hw), hnp.arrays(np.bool_, hw))
)


def manhattan(prediction: Mask, target: Mask) -> float:
    return hausdorff_distance(prediction, target, metric="manhattan")


def surface_dice(prediction: Mask, target: Mask) -> float:
    return normalised_surface_dice(prediction, target, tolerance_px=2)


def rectangle(image_hw: tuple[int, int], x1: int, y1: int, x2: int, y2: int) -> Mask:
    """A mask of one rectangle, x2 and y2 excluded."""
    mask = np.zeros(image_hw, dtype=np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def test_overlap_of_two_rectangles() -> None:
    # 4x3 = 12 and 3x4 = 12 pixels, sharing 2x3 = 6.
    a, b = rectangle((8, 9), 1, 1, 5, 4), rectangle((8, 9), 3, 1, 6, 5)
    assert dice(a, b) == pytest.approx(2 * 6 / 24)
    assert iou(a, b) == pytest.approx(6 / 18)


def test_distances_of_two_pixels() -> None:
    a, b = rectangle((10, 10), 1, 2, 2, 3), rectangle((10, 10), 4, 6, 5, 7)  # 3 right, 4 down
    assert hausdorff_distance(a, b) == pytest.approx(5, abs=FLOAT32_DISTANCE)
    assert manhattan(a, b) == pytest.approx(7, abs=FLOAT32_DISTANCE)
    assert hausdorff_distance_95(a, b) == pytest.approx(5, abs=FLOAT32_DISTANCE)


def test_hd95_forgives_a_small_outlier() -> None:
    # 400 outline pixels agree, and one lone pixel is 50 columns away.
    target = rectangle((150, 200), 10, 10, 111, 111)
    prediction = target.copy()
    prediction[60, 160] = True
    assert hausdorff_distance(prediction, target) == pytest.approx(50, abs=FLOAT32_DISTANCE)
    assert hausdorff_distance_95(prediction, target) == 0


def test_surface_dice_counts_outline_pixels_within_the_tolerance() -> None:
    # Two lines of 10 pixels, 6 columns shared, one row apart. Off the shared part pixels are
    # sqrt(1 + d^2) away for d = 1..4 columns: 1.41, 2.24, 3.16, 4.12.
    a, b = rectangle((8, 30), 2, 3, 12, 4), rectangle((8, 30), 6, 4, 16, 5)
    for tolerance, pixels in ((0.5, 0), (1, 6), (2, 7), (3, 8), (4, 9), (5, 10)):
        assert normalised_surface_dice(a, b, tolerance) == pytest.approx(2 * pixels / 20)
    with pytest.raises(ValueError, match="tolerance_px must be at least 0, got -1"):
        normalised_surface_dice(a, b, -1)


def test_row_distance_compares_rows_wherever_they_are() -> None:
    a = rectangle((6, 10), 2, 0, 6, 2)  # rows of 4 pixels
    assert row_hausdorff_distance(a, rectangle((6, 10), 2, 4, 6, 6)) == 0  # moved down: not seen
    assert row_hausdorff_distance(a, rectangle((6, 10), 3, 0, 7, 2)) == 2  # one off, one on
    assert row_hausdorff_distance(a, rectangle((6, 10), 2, 0, 9, 2)) == 3  # three longer
    # Without an empty row to resemble, the longest row counts.
    assert row_hausdorff_distance(a, np.zeros((6, 10), dtype=np.bool_)) == 4


@pytest.mark.parametrize(
    ("metric", "both_empty", "one_empty"),
    [
        (dice, 1.0, 0.0),
        (iou, 1.0, 0.0),
        (surface_dice, 1.0, 0.0),
        (hausdorff_distance, 0.0, 5.0),  # the diagonal of 4 x 5 pixels: 3 rows and 4 columns
        (manhattan, 0.0, 7.0),
        (hausdorff_distance_95, 0.0, 5.0),
        (row_hausdorff_distance, 0.0, 2.0),
    ],
)
def test_empty_masks_have_defined_values(
    metric: Metric, both_empty: float, one_empty: float
) -> None:
    empty, lesion = np.zeros((4, 5), dtype=np.bool_), rectangle((4, 5), 1, 1, 3, 2)
    assert metric(empty, empty) == both_empty
    assert metric(lesion, empty) == one_empty
    assert metric(empty, lesion) == one_empty


@given(PAIRS)
@settings(deadline=None, derandomize=True)
def test_row_distance_agrees_with_brute_force(masks: tuple[Mask, Mask]) -> None:
    a, b = masks
    differing = (a[:, None, :] != b[None, :, :]).sum(axis=2)  # (H, H)
    expected = max(differing.min(axis=1).max(), differing.min(axis=0).max())
    assert row_hausdorff_distance(a, b) == expected


@given(PAIRS)
@settings(deadline=None, derandomize=True)
def test_metrics_are_symmetric_and_perfect_for_equal_masks(masks: tuple[Mask, Mask]) -> None:
    a, b = masks
    distances: tuple[Metric, ...] = (
        hausdorff_distance,
        manhattan,
        hausdorff_distance_95,
        row_hausdorff_distance,
    )
    for metric in (dice, iou, surface_dice, *distances):
        assert metric(a, b) == pytest.approx(metric(b, a))
    assert dice(a, a) == iou(a, a) == surface_dice(a, a) == 1.0
    for metric in distances:
        assert metric(a, a) == 0.0


def test_resizing_takes_the_nearest_pixel() -> None:
    mask = np.array([[True, False, False, True]])
    # Output pixel i looks at (i + 0.5) * 4 / 2 - 0.5 = 0.5 and 2.5, halves rounding up.
    np.testing.assert_array_equal(resize_mask(mask, (1, 2)), [[False, True]])
    np.testing.assert_array_equal(
        resize_mask(mask, (2, 8)), np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1)
    )


@pytest.mark.parametrize(
    "metric",
    [dice, iou, surface_dice, hausdorff_distance, hausdorff_distance_95, row_hausdorff_distance],
)
def test_metrics_raise_for_what_is_not_two_masks_of_one_size(metric: Metric) -> None:
    mask = np.ones((4, 5), dtype=np.bool_)
    with pytest.raises(ValueError, match=r"got shapes \(4, 5\) and \(5, 4\)"):
        metric(mask, mask.T)
    with pytest.raises(ValueError, match=r"got shapes \(1, 4, 5\)"):
        metric(mask[None], mask[None])
    with pytest.raises(TypeError, match=r"target must be a bool array .* got dtype uint8"):
        metric(mask, mask.astype(np.uint8))
    with pytest.raises(TypeError, match=r"prediction must be a bool array .* got list"):
        metric([[True]], mask)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="'euclidean' or 'manhattan', got 'chebyshev'"):
        hausdorff_distance(mask, mask, metric="chebyshev")  # type: ignore[arg-type]  # on purpose
