"""What a lesion and its surroundings look like, and where that is in another frame."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.runtime.cine.box_geometry import Box
from samus_edge.runtime.grey_frame import GreyFrame

__all__ = ["Appearance", "Found"]


_PATCH_SIDE_PX = 48
"""Of the longer side of a patch, after scaling: speckle, which changes from frame to frame, is averaged away."""
_SURROUNDINGS = 0.3
"""Of the box's sides, added on each side: the border of a lesion tells more than its inside."""
_MIN_PATCH_PX = 5
_FLAT = 1e-6


@dataclass(frozen=True)
class Found:
    """Where something was found.

    Attributes:
        shift: (x, y) from where it was, pixels of the frame.
        similarity: normalised cross-correlation, -1 to 1.
    """

    shift: tuple[float, float]
    similarity: float


class Appearance:
    """A part of a frame, small and smooth.

    Args:
        frame: (H, W), uint8.
        box: XYXY around a lesion, pixels.
    """

    def __init__(self, frame: GreyFrame, box: Box) -> None:
        self._frame_hw = frame.shape
        x1, y1, x2, y2 = box
        width, height = x2 - x1 + 1, y2 - y1 + 1
        margin_x, margin_y = _SURROUNDINGS * width, _SURROUNDINGS * height
        full = (1 + 2 * _SURROUNDINGS) * max(width, height)
        self._scale = min(1.0, _PATCH_SIDE_PX / full)
        small = self._small(frame)
        left, top = (max(0, math.floor(v * self._scale)) for v in (x1 - margin_x, y1 - margin_y))
        right = min(small.shape[1], math.ceil((x2 + margin_x + 1) * self._scale))
        bottom = min(small.shape[0], math.ceil((y2 + margin_y + 1) * self._scale))
        self._left_top = (left, top)
        self._patch = small[top:bottom, left:right].copy()

    @property
    def is_usable(self) -> bool:
        """Whether there is anything to recognise it by."""
        height, width = self._patch.shape
        return min(height, width) >= _MIN_PATCH_PX and float(self._patch.std()) > _FLAT

    def find(
        self,
        frame: GreyFrame,
        reach: float | None = None,
        around: tuple[float, float] = (0.0, 0.0),
    ) -> Found:
        """Look for it in another frame of the same size.

        Args:
            frame: (H, W), uint8.
            reach: how far from there it may be, in sides of the patch; None for everywhere.
            around: (x, y) from where it was, pixels of the frame.

        Returns:
            The best place; similarity 0 if it is not usable.

        Raises:
            ValueError: if the frame has another size.
        """
        if frame.shape != self._frame_hw:
            raise ValueError(
                f"the frame is {frame.shape[0]} x {frame.shape[1]}, those before were "
                f"{self._frame_hw[0]} x {self._frame_hw[1]}. A loop has one size; start again."
            )
        if not self.is_usable:
            return Found((0.0, 0.0), 0.0)
        small = self._small(frame)
        height, width = self._patch.shape
        left, top = self._left_top
        x0, y0, x1, y1 = 0, 0, small.shape[1], small.shape[0]
        if reach is not None:
            across, down = max(2, round(reach * width)), max(2, round(reach * height))
            x = min(max(left + round(around[0] * self._scale), 0), x1 - width)
            y = min(max(top + round(around[1] * self._scale), 0), y1 - height)
            x0, y0 = max(0, x - across), max(0, y - down)
            x1, y1 = min(x1, x + width + across), min(y1, y + height + down)
        scores = cv2.matchTemplate(small[y0:y1, x0:x1], self._patch, cv2.TM_CCOEFF_NORMED)
        scores = np.nan_to_num(np.asarray(scores, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        _, best, _, (column, row) = cv2.minMaxLoc(scores)
        shift = (
            (_refined(scores[row], column) + x0 - left) / self._scale,
            (_refined(scores[:, column], row) + y0 - top) / self._scale,
        )
        return Found(shift, float(np.clip(best, -1.0, 1.0)))

    def _small(self, frame: GreyFrame) -> npt.NDArray[np.float32]:
        height, width = frame.shape
        size_wh = (max(1, round(width * self._scale)), max(1, round(height * self._scale)))
        small = cv2.resize(frame, size_wh, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small.astype(np.float32), (3, 3), 0), np.float32)


def _refined(scores: npt.NDArray[Any], at: int) -> float:
    """The top of the parabola through three scores."""
    if not 0 < at < len(scores) - 1:
        return float(at)
    before, here, after = (float(value) for value in scores[at - 1 : at + 2])
    bend = before - 2 * here + after
    return at if bend >= 0 else at + max(-0.5, min(0.5, (before - after) / (2 * bend)))
