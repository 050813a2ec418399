"""Masks as one 8-bit image to be saved."""

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_LABELS", "mask_image"]

MAX_LABELS = 255
_SINGLE_VALUE = 255


def mask_image(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """One mask as black and white, several as labels.

    Args:
        masks: (N, H, W), bool, N from 1 to `MAX_LABELS`.

    Returns:
        (H, W), uint8. For N = 1, 255 inside the mask; for more, i + 1 inside mask i, the later mask
        where two overlap. 0 is background.

    Raises:
        ValueError: if there are more masks than labels.
    """
    if len(masks) > MAX_LABELS:
        raise ValueError(
            f"a mask file holds at most {MAX_LABELS} masks, got {len(masks)}. Give fewer prompts."
        )
    image = np.zeros(masks.shape[1:], np.uint8)
    for index, mask in enumerate(masks):
        image[mask] = _SINGLE_VALUE if len(masks) == 1 else index + 1
    return image
