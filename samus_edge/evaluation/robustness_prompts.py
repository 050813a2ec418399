"""Prompts of users who are less careful than the standard protocols assume.

Coordinates are pixels of the original image, (x, y), pixel centres at integers.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.evaluation.prompt import Prompt
from samus_edge.evaluation.prompt_protocol import (
    JITTERED_BOX,
    centre_point,
    jittered_box,
    mask_box,
    ordered_edges,
)

__all__ = [
    "BOX_MARGINS",
    "POINT_OFFSETS",
    "BoxAndPointProtocol",
    "MarginBoxProtocol",
    "OffsetPointProtocol",
    "loose_box_sweep",
    "margin_box",
    "offset_point",
]

Mask = npt.NDArray[np.bool_]

BOX_MARGINS: Final = (0.05, 0.10, 0.15, 0.20)
"""How much too loose, or too tight, the boxes of the robustness table are."""

POINT_OFFSETS: Final = (0.10, 0.20, 0.30)
"""How far off the centre the points of the robustness table are."""


@dataclass(frozen=True)
class MarginBoxProtocol:
    """Prompt with the lesion's box, every edge too far out, or every edge too far in."""

    margin: float
    """Movement of each edge outwards, as a fraction of the box's width or height; negative inwards.
    Above -0.5, at most 1, not 0."""

    def __post_init__(self) -> None:
        """Check the margin."""
        _check_margin(self.margin)
        if self.margin == 0.0:
            raise ValueError(
                "margin must not be 0, got 0.0. The exact box is BoxProtocol(jitter=0.0)."
            )

    @property
    def name(self) -> str:
        """Name in reports, such as ``"box_loose_15%"`` or ``"box_tight_15%"``."""
        kind = "loose" if self.margin > 0 else "tight"
        return f"box_{kind}_{abs(self.margin) * 100:g}%"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The `margin_box`; draws nothing."""
        return Prompt(box=margin_box(mask, self.margin))


@dataclass(frozen=True)
class OffsetPointProtocol:
    """Prompt with one foreground point beside the lesion's centre, in a random direction."""

    offset: float
    """Distance from the centre as a fraction of the lesion's width and height; above 0, below 1."""

    def __post_init__(self) -> None:
        """Check the offset."""
        if not 0.0 < self.offset < 1.0:
            raise ValueError(f"offset must be above 0 and below 1, got {self.offset}.")

    @property
    def name(self) -> str:
        """Name in reports, such as ``"point_off_20%"``."""
        return f"point_off_{self.offset * 100:g}%"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The `offset_point`."""
        return Prompt(points=offset_point(mask, self.offset, rng)[None])


@dataclass(frozen=True)
class BoxAndPointProtocol:
    """Prompt with the standard jittered box and the centre point together."""

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"{JITTERED_BOX.name}+centre_point"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The same box as the standard box protocol gives, and the same point."""
        box = jittered_box(mask, JITTERED_BOX.jitter, rng)
        return Prompt(box=box, points=centre_point(mask)[None])


def loose_box_sweep() -> tuple[MarginBoxProtocol, ...]:
    """A protocol of boxes too loose by each of ``BOX_MARGINS``."""
    return tuple(MarginBoxProtocol(margin) for margin in BOX_MARGINS)


def margin_box(mask: Mask, margin: float) -> npt.NDArray[np.float32]:
    """The tight box around a mask with each edge moved by the same fraction of its side.

    Args:
        mask: (H, W), not empty.
        margin: Movement outwards as a fraction of the box's width (left and right edge) or height,
            counted in pixels (x2 - x1 + 1); negative inwards. Above -0.5, at most 1. At 0.15 the
            box is 1.3 times as wide and as high as the lesion.

    Returns:
        (4,) XYXY, x1 < x2 and y1 < y2, inside the image (0..W-1, 0..H-1): what sticks out is cut
        off, so the box of a lesion at the border is looser on the other sides only.

    Raises:
        ValueError: If the mask is empty or not two-dimensional, or if ``margin`` is out of range.
    """
    _check_margin(margin)
    x1, y1, x2, y2 = mask_box(mask).astype(np.float64)
    dx, dy = margin * (x2 - x1 + 1.0), margin * (y2 - y1 + 1.0)
    left, right = ordered_edges(x1 - dx, x2 + dx, mask.shape[1] - 1.0)
    top, bottom = ordered_edges(y1 - dy, y2 + dy, mask.shape[0] - 1.0)
    return np.array([left, top, right, bottom], dtype=np.float32)


def offset_point(mask: Mask, offset: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A click beside the lesion's centre, and still on the lesion.

    Args:
        mask: (H, W), not empty.
        offset: The point lies on an ellipse around `centre_point` whose half axes are this fraction
            of the lesion's width and height (of its box, in pixels). 0.5 would be the outline of an
            elliptic lesion.
        rng: Source of randomness; one number, the direction, is drawn.

    Returns:
        (2,) x, y. If the pixel that the point falls in does not belong to the mask, the centre of
        the nearest mask pixel instead (the first in reading order among equals): a user who misses
        the centre still clicks on the lesion.

    Raises:
        ValueError: If the mask is empty or not two-dimensional.
    """
    box = mask_box(mask).astype(np.float64)
    angle = rng.uniform(0.0, 2.0 * math.pi)
    half_axes = offset * (box[2:] - box[:2] + 1.0)  # (2,)
    x, y = centre_point(mask).astype(np.float64) + half_axes * (math.cos(angle), math.sin(angle))
    column, row = math.floor(x + 0.5), math.floor(y + 0.5)
    inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
    if inside and mask[row, column]:
        return np.array([x, y], dtype=np.float32)
    rows, columns = np.nonzero(mask)
    nearest = int(np.argmin((columns - x) ** 2 + (rows - y) ** 2))
    return np.array([columns[nearest], rows[nearest]], dtype=np.float32)


def _check_margin(margin: float) -> None:
    if not -0.5 < margin <= 1.0:
        raise ValueError(f"margin must be above -0.5 and at most 1, got {margin}.")
