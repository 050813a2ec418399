"""The prompts of an evaluation: what a user would give for a lesion, the same in every run.

Coordinates are pixels of the original image, (x, y), pixel centres at integers.

A prompt depends on the mask, the case and the seed alone, not on the order of the cases or on the
other prompts. The centre point differs from the reference implementation of SAMUS, which clicks on
the middle one of the mask's pixels in reading order.

Prompts as users give them, simulated from a mask during training.

Coordinates are pixels of the model frame, (x, y), pixel centres at integers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.bundle.records import Bound, Fraction, check_record


def _no_points() -> npt.NDArray[np.float32]:
    return np.zeros((0, 2), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Prompt:
    """A box, foreground points, or both.

    Attributes:
        box: (4,) XYXY, float32, pixels of the image; None without.
        points: (P, 2) foreground points (x, y), float32, pixels of the image; (0, 2) without.
    """

    box: npt.NDArray[np.float32] | None = None
    points: npt.NDArray[np.float32] = field(default_factory=_no_points)

    @property
    def coords_text(self) -> str:
        """All coordinates, ``"x1 y1 x2 y2 x y"``: those of the box, then those of the points."""
        box = [] if self.box is None else self.box.tolist()
        return " ".join(f"{value:.2f}" for value in (*box, *self.points.ravel().tolist()))


@dataclass(frozen=True, eq=False)
class PromptArrays:
    """N prompts of one kind as a predictor takes them.

    Attributes:
        boxes: (N, 4), float32; None without boxes.
        point_coords: (N, P, 2), float32; None without points.
        point_labels: (N, P), int32, all 1; None without points.
    """

    boxes: npt.NDArray[np.float32] | None
    point_coords: npt.NDArray[np.float32] | None
    point_labels: npt.NDArray[np.int32] | None


def prompt_arrays(prompts: Sequence[Prompt]) -> PromptArrays:
    """Stack prompts that all have a box or all have none, and have equally many points."""
    boxes = [prompt.box for prompt in prompts if prompt.box is not None]
    points = np.stack([prompt.points for prompt in prompts])  # (N, P, 2)
    has_points = points.shape[1] > 0
    return PromptArrays(
        boxes=np.stack(boxes) if boxes else None,
        point_coords=points if has_points else None,
        point_labels=np.ones(points.shape[:2], dtype=np.int32) if has_points else None,
    )


def scale_prompt(prompt: Prompt, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Prompt:
    """Move a prompt from the frame of an image to that of the resized image.

    Half-pixel rule, as images are resized: to = (from + 0.5) * scale - 0.5, per axis. What was
    inside the image, -0.5..W-0.5 by -0.5..H-0.5, is inside the resized one.
    """
    scale = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])

    def moved(coords: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        xy = (coords.reshape(-1, 2).astype(np.float64) + 0.5) * scale - 0.5
        return np.asarray(xy.reshape(coords.shape), dtype=np.float32)

    return Prompt(None if prompt.box is None else moved(prompt.box), moved(prompt.points))


Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float32]

CAREFUL_JITTER = 0.05
LABEL_BACKGROUND, LABEL_FOREGROUND, LABEL_PADDING = 0, 1, -1


@dataclass(frozen=True)
class BoxConfig:
    """How boxes miss the lesion; what the shares leave over is jittered by 5 %.

    Attributes:
        jitter_share: share of boxes whose edges move by up to ``jitter``, each on its own.
        jitter: largest move of an edge in either direction, as a fraction of the side.
        loose_share: share of boxes whose edges are too far out, each on its own.
        evenly_loose_share: share of boxes whose edges are all too far out by the same fraction.
        looseness: furthest that an edge is too far out, as a fraction of the side.
    """

    jitter_share: Fraction = 0.3
    jitter: Annotated[float, Bound("in [0, 0.5)", lambda value: 0 <= value < 0.5)] = 0.12
    loose_share: Fraction = 0.25
    evenly_loose_share: Fraction = 0.0
    looseness: Fraction = 0.2

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            BadArgumentError: naming every bad one.
        """
        check_record(self)
        if self.jitter_share + self.loose_share + self.evenly_loose_share > 1.0:
            raise BadArgumentError("the shares of boxes must add up to at most 1")


def simulate_box(mask: Mask, rng: np.random.Generator, config: BoxConfig) -> Points:
    """A box around the lesion as drawn by hand: tight, jittered or loose.

    Args:
        mask: (S, S), bool, not empty.
        rng: source of randomness.
        config: ways in which boxes miss the lesion.

    Returns:
        (2, 2), float32: top left and bottom right (x, y) in pixels, inside the frame.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float64)
    sides = np.tile([box[2] - box[0] + 1, box[3] - box[1] + 1], 2)
    outwards = np.array([-1.0, -1.0, 1.0, 1.0])
    # from the end: loose boxes, wide jitter, then the jitter of a careful hand
    kind = 1.0 - rng.random()
    if kind <= config.evenly_loose_share:
        box += outwards * rng.uniform(0.0, config.looseness) * sides
    elif kind <= config.evenly_loose_share + config.loose_share:
        box += outwards * rng.uniform(0.0, config.looseness, size=4) * sides
    else:
        wide = kind <= config.evenly_loose_share + config.loose_share + config.jitter_share
        jitter = config.jitter if wide else CAREFUL_JITTER
        box += rng.uniform(-jitter, jitter, size=4) * sides
    corners = np.clip(box, 0, mask.shape[0] - 1).reshape(2, 2)
    # the edges of a lesion one pixel wide may have changed places
    return np.sort(corners, axis=0).astype(np.float32)


def simulate_click(mask: Mask, rng: np.random.Generator) -> Points:
    """A click on the lesion: near its middle half of the time, anywhere inside otherwise.

    Args:
        mask: (S, S), bool, not empty.
        rng: source of randomness.

    Returns:
        (1, 2), float32, (x, y) in pixels, on the mask.
    """
    if rng.random() < 0.5:
        rows, columns = np.nonzero(mask)
        centre = np.array([columns.mean(), rows.mean()])
        spread = 0.08 * np.array([np.ptp(columns) + 1, np.ptp(rows) + 1])
        x, y = np.rint(centre + rng.standard_normal(2) * spread).astype(int)
        if 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and mask[y, x]:
            return np.array([[x, y]], dtype=np.float32)
    return _random_pixel(mask, rng)


def simulate_background_click(mask: Mask, rng: np.random.Generator) -> tuple[Points, int]:
    """A click that says "not here": close to the lesion half of the time, else anywhere outside.

    Args:
        mask: (S, S), bool.
        rng: source of randomness.

    Returns:
        (1, 2) click, float32, (x, y) off the mask, and its label 0; a frame that is all lesion gets
        a point labelled -1, which is none.
    """
    if mask.all():
        return np.zeros((1, 2), dtype=np.float32), LABEL_PADDING
    outside = ~mask
    if rng.random() < 0.5 and mask.any():
        distance = cv2.distanceTransform(outside.astype(np.uint8), cv2.DIST_L2, 3)
        reach = 0.5 * np.sqrt(mask.sum())  # half the side of a square as large as the lesion
        close = outside & (distance <= max(2.0, reach))
        return _random_pixel(close, rng), LABEL_BACKGROUND
    return _random_pixel(outside, rng), LABEL_BACKGROUND


def simulate_phantom(side: int, rng: np.random.Generator) -> Mask:
    """An ellipse where a lesion might be, to prompt a frame that has none.

    Args:
        side: side of the square frame, pixels.
        rng: source of randomness.

    Returns:
        (side, side), bool, not empty.
    """
    centre = rng.uniform(0.2, 0.8, size=2) * side
    radii = rng.uniform(0.05, 0.25, size=2) * side
    rows, columns = np.ogrid[:side, :side]
    return np.asarray(
        ((columns - centre[0]) / radii[0]) ** 2 + ((rows - centre[1]) / radii[1]) ** 2 <= 1.0
    )


def simulate_correction(
    mask: Mask, predicted: Mask, rng: np.random.Generator
) -> tuple[Points, int]:
    """A corrective click in the largest wrong region; on the lesion where nothing is wrong.

    Args:
        mask: (S, S), bool, the truth.
        predicted: (S, S), bool.
        rng: source of randomness.

    Returns:
        (1, 2) click and its label: 1 where lesion was missed, 0 where too much was marked.
    """
    wrong = mask ^ predicted
    count, regions, stats, _ = cv2.connectedComponentsWithStats(
        wrong.astype(np.uint8), connectivity=4
    )
    if count < 2:  # nothing is wrong
        has_lesion = bool(mask.any())
        return _random_pixel(mask if has_lesion else ~mask, rng), int(has_lesion)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    distance = cv2.distanceTransform((regions == largest).astype(np.uint8), cv2.DIST_L2, 3)
    # users click well inside the region: anywhere at least half as deep as its deepest pixel
    click = _random_pixel(distance >= 0.5 * distance.max(), rng)
    x, y = click[0].astype(int)
    return click, int(mask[y, x])


def _random_pixel(mask: Mask, rng: np.random.Generator) -> Points:
    rows, columns = np.nonzero(mask)
    index = rng.integers(len(rows))
    return np.array([[columns[index], rows[index]]], dtype=np.float32)


MIN_BOX_SIDE_PX: Final = 1.0
"""A box is never narrower than this: a zero-area box is not a valid prompt."""

BOX_JITTERS: Final = (0.0, 0.05, 0.10, 0.15, 0.20)
"""Edge movements of the robustness table, as fractions of the box's width or height."""


def _check_jitter(jitter: float) -> None:
    if not 0.0 <= jitter < 0.5:
        raise BadArgumentError(f"jitter must be at least 0 and below 0.5, got {jitter}.")


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
        BadArgumentError: If the mask is empty or not two-dimensional.
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
        BadArgumentError: If the mask is empty or not two-dimensional, or if ``jitter`` is out of
            range.
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
        BadArgumentError: If the mask is empty or not two-dimensional.
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
        raise BadArgumentError(
            f"mask must have shape (H, W) and at least one pixel set, got shape {mask.shape} "
            f"with {int(mask.sum())} set."
        )
