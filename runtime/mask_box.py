"""The smallest box around a mask."""

import numpy as np
import numpy.typing as npt

__all__ = ["box_around"]


def box_around(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The smallest box around a mask.

    Args:
        mask: (H, W), bool.

    Returns:
        XYXY, pixel centres, both ends inside; None for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
