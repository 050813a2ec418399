"""How a lesion stands out from what is around it."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.runtime.grey_frame import GreyFrame

__all__ = ["lesion_contrast"]

_RING = 0.25  # width of the ring, in square roots of the lesion's area
_GREY_LEVEL = 1.0  # so that flat images have no infinite contrast


def lesion_contrast(frame: GreyFrame, mask: npt.NDArray[np.bool_]) -> float:
    """Difference of mean brightness around a lesion and in it, in mean standard deviations.

    Args:
        frame: (H, W), uint8.
        mask: (H, W), bool.

    Returns:
        Positive for a dark lesion; 0 where there is no lesion or nothing around it.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0.0
    area = np.count_nonzero(mask)
    side = max(3, round(_RING * math.sqrt(area)) | 1)
    # Only the part around the lesion: dilating a whole frame takes milliseconds.
    part = (
        slice(max(0, rows[0] - side), rows[-1] + side + 1),
        slice(max(0, columns[0] - side), columns[-1] + side + 1),
    )
    inside, values = mask[part], frame[part]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    ring = (cv2.dilate(inside.astype(np.uint8), kernel) > 0) & ~inside
    if not ring.any():
        return 0.0
    lesion, around = values[inside].astype(np.float32), values[ring].astype(np.float32)
    spread = (float(lesion.std()) + float(around.std())) / 2 + _GREY_LEVEL
    return (float(around.mean()) - float(lesion.mean())) / spread
