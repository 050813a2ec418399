"""Masks that are corrected click by click.

The network alone seldom follows a click against what a box has said: on BUSI, one in ten clicked pixels does. So each click
refines the mask before it, and where the clicked pixel still is on the wrong side, the logits around it are shifted,
most at the click, and fading with the distance to the mask's border.
"""

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.runtime.mask_upsampling import masks_from_logits
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["predict_with_clicks", "shift_to_clicks"]

Logits = npt.NDArray[np.float32]

_MARGIN = 4.0
"""What the logit at a click is beyond zero at least; 4 is a probability of 0.98."""
_REACH = 2.0
"""Standard deviation of a shift, in distances from the click to the border of the wrong region."""
_LEAST_REACH = 1.5  # pixels of the logits: less would be a dot


def predict_with_clicks(
    segmenter: Segmenter,
    embedding: Embedding,
    *,
    box: npt.ArrayLike | None = None,
    point_coords: npt.ArrayLike = (),
    point_labels: npt.ArrayLike = (),
) -> Prediction:
    """Predict one mask, and let each click refine the one before it.

    Args:
        segmenter: with the bundle that made the embedding.
        embedding: of the frame.
        box: (4,), XYXY, pixels of the frame; None without.
        point_coords: (P, 2), pixels of the frame, in the order in which they were clicked.
        point_labels: (P,), 1 on the lesion, 0 beside it.

    Returns:
        One mask of the frame's size; the same for the same clicks.

    Raises:
        ValueError: if there is neither box nor point, or they do not fit the frame.
        BackendError: if the backend fails.
    """
    points = np.asarray(point_coords, np.float64).reshape(-1, 2)
    labels = np.asarray(point_labels, np.int32).reshape(-1)
    if len(points) != len(labels):
        raise ValueError(f"got {len(points)} points and {len(labels)} labels; give one for each.")
    if box is None and len(points) == 0:
        raise ValueError("there is no prompt. Give a box, points, or both.")
    threshold = segmenter.bundle.manifest.mask_threshold
    prediction: Prediction | None = None
    for count in range(0 if box is not None else 1, len(points) + 1):
        prediction = segmenter.predict(
            embedding,
            boxes=None if box is None else np.asarray(box, np.float64)[None],
            point_coords=points[None, :count] if count else None,
            point_labels=labels[None, :count] if count else None,
            mask_input=None if prediction is None else prediction.low_res_logits,
        )
        if count == 0:
            continue
        logits = shift_to_clicks(
            prediction.low_res_logits[0, 0] - np.float32(threshold),
            points[:count],
            labels[:count],
            embedding.original_hw,
        )[None, None] + np.float32(threshold)
        prediction = Prediction(
            masks=masks_from_logits(logits, embedding.original_hw, threshold),
            low_res_logits=logits,
            iou_predictions=prediction.iou_predictions,
            original_hw=embedding.original_hw,
        )
    assert prediction is not None
    return prediction


def shift_to_clicks(
    logits: Logits,
    point_coords: npt.NDArray[np.float64],
    point_labels: npt.NDArray[np.int32],
    original_hw: tuple[int, int],
) -> Logits:
    """Shift logits around clicks that are on the wrong side.

    Args:
        logits: (h, w), above 0 on the lesion.
        point_coords: (P, 2), pixels of the frame.
        point_labels: (P,), 1 on the lesion, 0 beside it.
        original_hw: (H, W) of the frame.

    Returns:
        (h, w), new.
    """
    height, width = logits.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    shifted = logits.astype(np.float32, copy=True)
    for (x, y), label in zip(point_coords, point_labels, strict=True):
        sign = 1.0 if label == 1 else -1.0
        # Pixel centres are at integers in both grids.
        column = float(np.clip((x + 0.5) * width / original_hw[1] - 0.5, 0, width - 1))
        row = float(np.clip((y + 0.5) * height / original_hw[0] - 0.5, 0, height - 1))
        at = round(row), round(column)
        lacking = _MARGIN - sign * float(shifted[at])
        if lacking <= 0:
            continue
        wrong = (shifted <= 0) if label == 1 else (shifted > 0)
        border = cv2.distanceTransform(np.pad(wrong, 1).astype(np.uint8), cv2.DIST_L2, 5)
        reach = max(_LEAST_REACH, _REACH * float(border[at[0] + 1, at[1] + 1]))
        distances = (columns - column) ** 2 + (rows - row) ** 2
        shifted += np.float32(sign * lacking) * np.exp(-distances / (2 * reach**2))
    return shifted
