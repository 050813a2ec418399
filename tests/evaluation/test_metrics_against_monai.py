"""Metrics against MONAI's and SciPy's, which are implementations of their own."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from monai.metrics.surface_dice import compute_surface_dice
from scipy.spatial.distance import directed_hausdorff

from samus_edge.evaluation.metrics import (
    dice,
    hausdorff_distance,
    hausdorff_distance_95,
    iou,
    normalised_surface_dice,
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
    """Fifteen pairs of different shapes."""
    rng = np.random.default_rng(0)
    return [(blob(rng, side), blob(rng, side)) for side in (24, 64, 150) for _ in range(5)]


def monai_input(mask: Mask) -> torch.Tensor:
    """(1, 1, H, W), float32."""
    return torch.from_numpy(mask)[None, None].float()


def test_overlaps_agree_with_monai(pairs: list[tuple[Mask, Mask]]) -> None:
    for a, b in pairs:
        inputs = monai_input(a), monai_input(b)
        assert dice(a, b) == pytest.approx(float(compute_dice(*inputs)), abs=FLOAT32_SHARE)
        assert iou(a, b) == pytest.approx(float(compute_iou(*inputs)), abs=FLOAT32_SHARE)


@pytest.mark.parametrize("tolerance_px", [0.0, 1.0, 2.0, 5.5])
def test_surface_dice_agrees_with_monai(
    pairs: list[tuple[Mask, Mask]], tolerance_px: float
) -> None:
    for a, b in pairs:
        expected = compute_surface_dice(monai_input(a), monai_input(b), [tolerance_px], True)
        assert normalised_surface_dice(a, b, tolerance_px) == pytest.approx(
            float(expected), abs=FLOAT32_SHARE
        )


def test_hd95_agrees_with_monai(pairs: list[tuple[Mask, Mask]]) -> None:
    for a, b in pairs:
        expected = compute_hausdorff_distance(
            monai_input(a), monai_input(b), include_background=True, percentile=95
        )
        assert hausdorff_distance_95(a, b) == pytest.approx(float(expected), abs=FLOAT32_DISTANCE)


def test_hausdorff_distance_agrees_with_scipy(pairs: list[tuple[Mask, Mask]]) -> None:
    # Between all mask pixels, as scipy is given them; MONAI measures between outlines only.
    for a, b in pairs:
        points = np.argwhere(a), np.argwhere(b)
        expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
        assert hausdorff_distance(a, b) == pytest.approx(expected, abs=FLOAT32_DISTANCE)
