"""The prompts of an evaluation: what a user would give for a lesion, the same in every run.

Coordinates are pixels of the original image, (x, y), pixel centres at integers.

A prompt depends on the mask, the case and the seed alone, not on the order of the cases or on the
other prompts. The centre point differs from the reference implementation of SAMUS, which clicks on
the middle one of the mask's pixels in reading order.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.evaluation.prompt import Prompt

__all__ = [
    "BOX_JITTERS",
    "CENTRE_POINT",
    "JITTERED_BOX",
    "STANDARD_PROTOCOLS",
    "BoxProtocol",
    "PointProtocol",
    "PromptProtocol",
    "box_sweep",
    "case_generator",
    "centre_point",
    "jittered_box",
    "mask_box",
    "ordered_edges",
]

Mask = npt.NDArray[np.bool_]

MIN_BOX_SIDE_PX: Final = 1.0
"""A box is never narrower than this: a zero-area box is not a valid prompt."""

BOX_JITTERS: Final = (0.0, 0.05, 0.10, 0.15, 0.20)
"""Edge movements of the robustness table, as fractions of the box's width or height."""


def _check_jitter(jitter: float) -> None:
    if not 0.0 <= jitter < 0.5:
        raise ValueError(f"jitter must be at least 0 and below 0.5, got {jitter}.")


class PromptProtocol(Protocol):
    """A kind of prompt: from a lesion's mask to what a user would give for it."""

    @property
    def name(self) -> str:
        """Name in reports; protocols with the same name are the same."""
        ...

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The prompt for a lesion.

        Args:
            mask: (H, W), not empty.
            rng: the lesion's own source of randomness, fresh from `case_generator`.
        """
        ...


@dataclass(frozen=True)
class BoxProtocol:
    """Prompt with the lesion's box, each edge moved at random."""

    jitter: float
    """Largest movement of an edge, as a fraction of the box's width or height; 0 for the exact box.
    From 0 to below 0.5."""

    def __post_init__(self) -> None:
        """Check the jitter."""
        _check_jitter(self.jitter)

    @property
    def name(self) -> str:
        """Name in reports, such as ``"box_5%"``, or ``"box_exact"``."""
        return f"box_{self.jitter * 100:g}%" if self.jitter else "box_exact"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The `jittered_box`."""
        return Prompt(box=jittered_box(mask, self.jitter, rng))


@dataclass(frozen=True)
class PointProtocol:
    """Prompt with one foreground point at the lesion's centre."""

    @property
    def name(self) -> str:
        """Name in reports."""
        return "centre_point"

    def prompt(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The `centre_point`; draws nothing."""
        return Prompt(points=centre_point(mask)[None])


JITTERED_BOX: Final = BoxProtocol(0.05)
"""The standard box prompt: each edge off by up to 5 %."""

CENTRE_POINT: Final = PointProtocol()
"""The standard point prompt."""

STANDARD_PROTOCOLS: Final[tuple[PromptProtocol, ...]] = (JITTERED_BOX, CENTRE_POINT)
"""What every evaluation reports."""


def box_sweep() -> tuple[PromptProtocol, ...]:
    """A box protocol for each of ``BOX_JITTERS``."""
    return tuple(BoxProtocol(jitter) for jitter in BOX_JITTERS)


def case_generator(key: str, instance: int, seed: int) -> np.random.Generator:
    """The source of randomness for one lesion, the same on every machine and Python version.

    Every jitter draws from a fresh generator of its lesion, so boxes of different jitters move in
    the same direction, by different amounts, and their results are comparable lesion by lesion.

    Args:
        key: Case key, such as ``"benign/benign (104)"``.
        instance: Number of the lesion in its image, from 0.
        seed: Seed of the evaluation.
    """
    # Not hash(): Python randomises it for strings in every process.
    digest = hashlib.sha256(f"{seed}\n{key}\n{instance}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def mask_box(mask: Mask) -> npt.NDArray[np.float32]:
    """The tight box around a mask.

    Args:
        mask: (H, W), not empty.

    Returns:
        (4,) XYXY: indices of the first and last column and row that the mask touches, inclusive. A
        mask of one column has x1 == x2.

    Raises:
        ValueError: If the mask is empty or not two-dimensional.
    """
    _check_mask(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def jittered_box(mask: Mask, jitter: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The box around a mask as a user might draw it, each edge moved by a uniform random amount.

    Args:
        mask: (H, W), not empty.
        jitter: Largest movement of an edge, inwards or outwards, as a fraction of the box's width
            or height, counted in pixels (x2 - x1 + 1); from 0 to below 0.5.
        rng: Source of randomness; four numbers are drawn, also if ``jitter`` is 0.

    Returns:
        (4,) XYXY, x1 < x2 and y1 < y2, inside the image (0..W-1, 0..H-1). A side that comes out
        shorter than ``MIN_BOX_SIDE_PX`` is widened to it, as far as the image allows.

    Raises:
        ValueError: If the mask is empty or not two-dimensional, or if ``jitter`` is out of range.
    """
    _check_jitter(jitter)
    box = mask_box(mask).astype(np.float64)
    sides = np.tile([box[2] - box[0] + 1.0, box[3] - box[1] + 1.0], 2)
    moved = box + rng.uniform(-1.0, 1.0, size=4) * jitter * sides
    last_x, last_y = mask.shape[1] - 1.0, mask.shape[0] - 1.0
    x1, x2 = ordered_edges(moved[0], moved[2], last_x)
    y1, y2 = ordered_edges(moved[1], moved[3], last_y)
    return np.array([x1, y1, x2, y2], dtype=np.float32)


def centre_point(mask: Mask) -> npt.NDArray[np.float32]:
    """The point where a user would click on a lesion.

    Args:
        mask: (H, W), not empty.

    Returns:
        (2,) x, y: the centroid of the mask's pixels if the pixel it falls in belongs to the mask;
        else (a crescent, several parts) the mask pixel farthest from the outside of the mask, where
        the outside of the image counts as outside; the first in reading order among equals.

    Raises:
        ValueError: If the mask is empty or not two-dimensional.
    """
    _check_mask(mask)
    rows, columns = np.nonzero(mask)
    x, y = columns.mean(), rows.mean()
    if mask[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]:
        return np.array([x, y], dtype=np.float32)
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), mask.shape)
    return np.array([column, row], dtype=np.float32)


def ordered_edges(low: float, high: float, last: float) -> tuple[float, float]:
    """Clip two edges to 0..last, in order, at least ``MIN_BOX_SIDE_PX`` apart where that fits."""
    low, high = sorted((min(max(low, 0.0), last), min(max(high, 0.0), last)))
    if high - low < MIN_BOX_SIDE_PX:
        centre = (low + high) / 2.0
        low = max(min(centre - MIN_BOX_SIDE_PX / 2.0, last - MIN_BOX_SIDE_PX), 0.0)
        high = min(low + MIN_BOX_SIDE_PX, last)
    return low, high


def _check_mask(mask: Mask) -> None:
    if mask.ndim != 2 or not mask.any():
        raise ValueError(
            f"mask must have shape (H, W) and at least one pixel set, got shape {mask.shape} "
            f"with {int(mask.sum())} set."
        )
