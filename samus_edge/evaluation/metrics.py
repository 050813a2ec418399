"""Overlap and distance between a predicted and a true mask.

Masks are (H, W) bool arrays of one size; distances are in pixels of the masks as given. Empty masks
have defined values, so that a mean over a test set always exists:

| metric | both empty | exactly one empty |
| --- | --- | --- |
| Dice, IoU, normalised surface Dice | 1 | 0 |
| the spatial distances | 0 | the largest distance possible in the frame |
| the row distance | 0 | as computed: the longest row of the other mask |

All raise TypeError if a mask is not a bool array, and BadArgumentError if the masks are not
two-dimensional or differ in size.
"""

from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.agreement import mask_iou

Mask = npt.NDArray[np.bool_]

_PERCENTILE: Final = 95.0
_DISTANCE_ERROR_PX: Final = 1e-3
"""OpenCV computes distances in float32; this much above a tolerance is still at the tolerance."""


def dice(prediction: Mask, target: Mask) -> float:
    """Dice coefficient, twice the intersection over the sum of the areas: 0..1, higher is better.

    Args:
        prediction: (H, W) predicted mask.
        target: (H, W) true mask.
    """
    _check_masks(prediction, target)
    total = int(prediction.sum()) + int(target.sum())
    return 2.0 * int((prediction & target).sum()) / total if total else 1.0


def iou(prediction: Mask, target: Mask) -> float:
    """Intersection over union (Jaccard index): 0..1, higher is better; arguments as `dice`."""
    _check_masks(prediction, target)
    return mask_iou(prediction, target)


def hausdorff_distance(
    prediction: Mask, target: Mask, metric: Literal["euclidean", "manhattan"] = "euclidean"
) -> float:
    """Hausdorff distance between the two sets of mask pixels, in pixels; lower is better.

    The largest distance from a pixel of one mask, interior included, to the nearest pixel of the
    other: max(max_a min_b d(a, b), max_b min_a d(a, b)) with d between pixel centres.

    Args:
        prediction: (H, W) predicted mask.
        target: (H, W) true mask.
        metric: ``"euclidean"``, or ``"manhattan"`` for the sum of horizontal and vertical distance.

    Returns:
        The distance; 0 if both masks are empty, the frame's largest distance if exactly one is.
    """
    _check_masks(prediction, target)
    if metric not in ("euclidean", "manhattan"):
        raise BadArgumentError(f"metric must be 'euclidean' or 'manhattan', got {metric!r}.")
    if not (prediction.any() and target.any()):
        return _distance_to_nothing(prediction, target, metric)
    return max(
        float(_distance_to(target, metric)[prediction].max()),
        float(_distance_to(prediction, metric)[target].max()),
    )


def hausdorff_distance_95(prediction: Mask, target: Mask) -> float:
    """95th-percentile Hausdorff distance between the two outlines, Euclidean, in pixels.

    For each direction the 95th percentile (linear interpolation) of the distances from the outline
    pixels of one mask to the nearest outline pixel of the other; the larger of the two. An outline
    pixel is a mask pixel with a 4-neighbour outside the mask or outside the frame. Outlines rather
    than whole masks, because interior pixels, mostly at distance 0, would make the percentile a
    matter of area.

    Arguments and empty masks as in `hausdorff_distance`.

    Source:
        Maier-Hein et al., "Metrics reloaded", Nature Methods 21 (2024), fact sheet HD95: the
        maximum of both directed percentiles, not a percentile of the pooled distances.
    """
    _check_masks(prediction, target)
    if not (prediction.any() and target.any()):
        return _distance_to_nothing(prediction, target, "euclidean")
    outlines = _outline(prediction), _outline(target)
    return max(
        float(np.percentile(_distance_to(to, "euclidean")[of], _PERCENTILE))
        for of, to in (outlines, outlines[::-1])
    )


def normalised_surface_dice(prediction: Mask, target: Mask, tolerance_px: float) -> float:
    """Share of both outlines that lies within a tolerance of the other: 0..1, higher is better.

    With the outlines as in `hausdorff_distance_95`: the number of outline pixels of either mask
    whose distance to the nearest outline pixel of the other is at most the tolerance, over the
    number of outline pixels of both. Unlike Dice it does not favour large lesions.

    Args:
        prediction: (H, W) predicted mask.
        target: (H, W) true mask.
        tolerance_px: Accepted deviation, Euclidean, in pixels of the masks as given; at least 0.

    Raises:
        BadArgumentError: if the tolerance is negative.

    Source:
        Nikolov et al. (arXiv:1809.04430), equation 1, there with surface areas in mm2. We count
        outline pixels, as MONAI does by default.
    """
    _check_masks(prediction, target)
    if not tolerance_px >= 0:
        raise BadArgumentError(f"tolerance_px must be at least 0, got {tolerance_px}.")
    if not (prediction.any() and target.any()):
        return float(prediction.any() == target.any())
    outlines = _outline(prediction), _outline(target)
    within = sum(
        int((_distance_to(to, "euclidean")[of] <= tolerance_px + _DISTANCE_ERROR_PX).sum())
        for of, to in (outlines, outlines[::-1])
    )
    return within / sum(int(outline.sum()) for outline in outlines)


def row_hausdorff_distance(prediction: Mask, target: Mask) -> float:
    """The distance that SAMUS's reference implementation reports as its Hausdorff distance.

    The reference hands both mask images, as 2-D arrays, to a function that takes a list of points:
    each *row* of the image becomes one point in a space with one axis per column. With its
    Manhattan metric the distance of two rows is the number of columns in which they differ, and the
    result is the largest such distance from a row of one mask to the most similar row of the other,
    wherever in the image that row is. It is a count of pixels, blind to vertical displacement and
    not a distance between outlines: use it only to compare with numbers published that way
    (the reference computes it on 256x256 masks), and `hausdorff_distance` for everything else.

    Args:
        prediction: (H, W) predicted mask.
        target: (H, W) true mask.

    Returns:
        The row distance in pixels, 0..W.
    """
    _check_masks(prediction, target)
    a, b = prediction.astype(np.float32), target.astype(np.float32)
    # |a - b| = a + b - 2ab for values 0 and 1; sums of at most W ones are exact in float32.
    row_distances = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - 2.0 * (a @ b.T)  # (H, H)
    return float(max(row_distances.min(axis=1).max(), row_distances.min(axis=0).max()))


def resize_mask(mask: Mask, output_hw: tuple[int, int]) -> Mask:
    """Resize a mask to ``output_hw`` by the nearest pixel (half-pixel centres)."""
    height, width = output_hw
    # INTER_NEAREST, in contrast, samples the upper left of each output pixel: half a pixel off.
    resized = cv2.resize(
        mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return resized.astype(np.bool_)


def _distance_to(mask: Mask, metric: Literal["euclidean", "manhattan"]) -> npt.NDArray[np.float32]:
    """Distance of every pixel of the frame (H, W) to the nearest pixel of a non-empty mask."""
    outside = (~mask).astype(np.uint8)
    if metric == "euclidean":
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    else:
        distance = cv2.distanceTransform(outside, cv2.DIST_L1, cv2.DIST_MASK_3)
    return distance.astype(np.float32, copy=False)


def _distance_to_nothing(
    prediction: Mask, target: Mask, metric: Literal["euclidean", "manhattan"]
) -> float:
    if prediction.any() == target.any():
        return 0.0
    height, width = target.shape
    if metric == "euclidean":
        return float(np.hypot(height - 1, width - 1))
    return float(height - 1 + width - 1)


def _outline(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: Mask = mask & ~inner
    return outline


def _check_masks(prediction: Mask, target: Mask) -> None:
    for name, mask in (("prediction", prediction), ("target", target)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            got = f"dtype {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"{name} must be a bool array with shape (H, W), got {got}.")
    if prediction.ndim != 2 or prediction.size == 0 or prediction.shape != target.shape:
        raise BadArgumentError(
            "prediction and target must be masks of one size with shape (H, W), "
            f"got shapes {prediction.shape} and {target.shape}."
        )
