"""From an array to the bytes of an image file."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import OutputFileError

__all__ = ["encode_image"]


def encode_image(path: Path, image: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image in the format that a file name asks for; nothing is written.

    Args:
        path: its suffix names the format; the rest only appears in the message.
        image: (H, W) grey or (H, W, 3) RGB, uint8.

    Raises:
        OutputFileError: if OpenCV cannot encode it.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        done, content = cv2.imencode(path.suffix.lower(), pixels)
    except cv2.error as err:
        raise OutputFileError(f"{path} cannot be encoded by OpenCV ({err.err}).") from err
    if not done:
        raise OutputFileError(f"{path} cannot be encoded by OpenCV.")
    return bytes(content)
