"""How large a lesion is on the image that the model sees, in three classes.

| class | equivalent diameter at 256x256 | share of the image's area |
| --- | --- | --- |
| small | below 50 px | below 3.0 % |
| medium | 50 to below 85 px | 3.0 % to below 8.7 % |
| large | 85 px and more | 8.7 % and more |

The limits are close to the terciles of BUSI's lesions. Being shares of the image, not millimetres,
they say how much of the picture a lesion takes, which is what makes it easy or hard for a model.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["LESION_SIZES", "equivalent_diameter_px", "lesion_size"]

LESION_SIZES: Final = ("small", "medium", "large")
"""The classes, ascending."""

MEDIUM_FROM_PX: Final = 50.0
LARGE_FROM_PX: Final = 85.0
FRAME_AREA_PX: Final = 256 * 256


def equivalent_diameter_px(mask: npt.NDArray[np.bool_]) -> float:
    """Diameter of the circle with the lesion's area, once the image is resized to 256x256.

    Args:
        mask: (H, W), bool, at the image's own size.

    Returns:
        sqrt(4 A / pi), with A the mask's share of the image times 256 x 256; pixels.
    """
    return math.sqrt(4.0 * float(mask.mean()) * FRAME_AREA_PX / math.pi)


def lesion_size(diameter_px: float) -> str:
    """Class of an equivalent diameter at 256x256: one of ``LESION_SIZES``."""
    if diameter_px < MEDIUM_FROM_PX:
        return "small"
    return "medium" if diameter_px < LARGE_FROM_PX else "large"
