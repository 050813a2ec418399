"""The outline of a region of pixels, as points on the edges of its pixels."""

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["convex_outline", "outline_length"]

Points = npt.NDArray[np.float64]

# Of the moving average that takes the stairs out of an outline: points to either side.
_HALF_WINDOW = 2
_POINTS_TO_SMOOTH = 12  # for each of them; a few pixels would shrink to a point


def convex_outline(region: npt.NDArray[np.bool_]) -> Points:
    """The convex hull of a region.

    A pixel is a square; the outline goes through the middles of its sides. So a bar of w pixels is w
    long, and a disc neither too large nor too small, which it would be by pixel centres or by corners.

    Args:
        region: (H, W), with at least one pixel.

    Returns:
        (K, 2), x and y in pixels, in order around the region.
    """
    contours, _ = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    corners = cv2.convexHull(np.concatenate(contours)).reshape(-1, 2).astype(np.float64)
    sides = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    middles = (corners[:, None] + sides).reshape(-1, 2).astype(np.float32)
    return np.asarray(cv2.convexHull(middles).reshape(-1, 2), np.float64)


def outline_length(region: npt.NDArray[np.bool_], scale_xy: tuple[float, float]) -> float:
    """Length of a region's outer outline.

    The outline goes through the middles of pixel sides. Its stairs are longer than what they stand for, so it
    is smoothed by a moving average of five points first.

    Args:
        region: (H, W), one component.
        scale_xy: size of a pixel across and down.

    Returns:
        In the unit of the scale.
    """
    points = _side_middles(region) * np.asarray(scale_xy)
    half_window = min(_HALF_WINDOW, len(points) // _POINTS_TO_SMOOTH)
    smooth = points.copy()
    for shift in range(1, half_window + 1):
        smooth += np.roll(points, shift, axis=0) + np.roll(points, -shift, axis=0)
    smooth /= 2 * half_window + 1
    return float(np.linalg.norm(np.diff(smooth, axis=0, append=smooth[:1]), axis=1).sum())


def _side_middles(region: npt.NDArray[np.bool_]) -> Points:
    """The middles of the sides between a region and what is around it, in order around it."""
    # Twice as large, with an arm of each pixel towards its neighbours: the contour then passes the ends of
    # all arms that reach out of the region.
    height, width = region.shape
    arms = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    rows, columns = np.nonzero(region)
    for down, across in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        arms[2 * rows + 2 + down, 2 * columns + 2 + across] = 1
    contours, _ = cv2.findContours(arms, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    x, y = max(contours, key=len).reshape(-1, 2).T - 2  # a pixel's centre has even numbers
    # Of an arm's end, the pixels on either side; one of them is outside.
    inside = np.pad(region, 1)
    first = inside[y // 2 + 1, x // 2 + 1]
    second = inside[-(-y // 2) + 1, -(-x // 2) + 1]
    is_side = ((x + y) % 2 == 1) & (first != second)
    return np.stack([x[is_side], y[is_side]], axis=1) / 2
