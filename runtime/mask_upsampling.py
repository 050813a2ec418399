"""From the decoder's low-resolution logits to masks of the original size."""

import numpy as np
import numpy.typing as npt

__all__ = ["masks_from_logits", "upsample_logits"]


def upsample_logits(
    logits: npt.NDArray[np.float32], original_hw: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Resize one map of logits bilinearly, with half-pixel centres and no antialiasing.

    Args:
        logits: (h, w), float32.
        original_hw: (H, W), pixels.

    Returns:
        (H, W), float32.

    Source: Segment Anything, `Sam.postprocess_masks`. We differ: our model input is the whole frame
        stretched to a square, so there is no padding to cut away.
    """
    # Here, so that importing the runtime does not load OpenCV.
    import cv2

    height, width = original_hw
    resized = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)  # (H, W)
    return np.asarray(resized, dtype=np.float32)


def masks_from_logits(
    low_res_logits: npt.NDArray[np.float32], original_hw: tuple[int, int], mask_threshold: float
) -> npt.NDArray[np.bool_]:
    """Upsample logits, then threshold: the other order would give jagged contours.

    Args:
        low_res_logits: (N, M, h, w), float32.
        original_hw: (H, W), pixels.
        mask_threshold: a pixel belongs to the mask where its logit is greater than this.

    Returns:
        (N, M, H, W), bool.
    """
    masks = np.empty((*low_res_logits.shape[:2], *original_hw), np.bool_)
    for index in np.ndindex(*low_res_logits.shape[:2]):
        # One map at a time: float32 logits of all masks of a large frame would not fit in memory.
        np.greater(
            upsample_logits(low_res_logits[index], original_hw), mask_threshold, masks[index]
        )
    return masks
