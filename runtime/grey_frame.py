"""From the user's image to the raw grey frame that the image encoder takes."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_IMAGE_PIXELS", "GreyFrame", "grey_frame"]

GreyFrame: TypeAlias = npt.NDArray[np.uint8]

# 67 million, 8192 x 8192: thirty times a large ultrasound frame, and little enough for memory.
MAX_IMAGE_PIXELS = 1 << 26


def grey_frame(image: object) -> GreyFrame:
    """Check an image and make it grey.

    Args:
        image: (H, W) grey or (H, W, 3) RGB, uint8, [0, 255], at most `MAX_IMAGE_PIXELS` pixels.

    Returns:
        (H, W), uint8, C-contiguous; `image` itself where it is that already. RGB becomes grey by
        0.299 R + 0.587 G + 0.114 B, in OpenCV's fixed-point arithmetic (cv2.COLOR_RGB2GRAY).

    Raises:
        TypeError: if the image is not a uint8 array.
        ValueError: if its shape is another, or it has no pixels or too many.
    """
    if not isinstance(image, np.ndarray):
        hint = "Read a file with samus_edge.runtime.image_io.read_image."
        if hasattr(image, "__cuda_array_interface__"):
            hint = "This backend takes no memory of a GPU: copy the image to the host."
        raise TypeError(f"image must be a numpy array, got {type(image).__name__}. {hint}")
    if image.dtype != np.uint8:
        raise TypeError(
            f"image must be uint8 in [0, 255], got {image.dtype.name}. Scale it first; "
            "samus_edge.runtime.image_io.read_image does that for 16-bit files."
        )
    is_grey = image.ndim == 2
    if not is_grey and not (image.ndim == 3 and image.shape[2] == 3):
        hint = _shape_hint(image.shape)
        raise ValueError(f"image must have shape (H, W) or (H, W, 3), got {image.shape}. {hint}")
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise ValueError(f"image must have at least one pixel, got {width} x {height}.")
    if height * width > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"image has {width} x {height} pixels, more than the limit of {MAX_IMAGE_PIXELS}. "
            "Crop it or scale it down."
        )
    if is_grey:
        return np.ascontiguousarray(image)
    # Here, so that importing the runtime does not load OpenCV.
    import cv2

    grey: GreyFrame = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)  # (H, W)
    return grey


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == 4:
        return "Drop the alpha channel: image[..., :3]."
    if len(shape) == 3 and shape[2] == 1:
        return "Drop the last axis: image[..., 0]."
    if len(shape) == 3 and shape[0] in (1, 3):
        return "Channels come last: image.transpose(1, 2, 0), then [..., 0] if there is one."
    return "Pass one image at a time."
