"""Prompts as users give them, simulated from a mask during training.

Coordinates are pixels of the model frame, (x, y), pixel centres at integers.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.settings_checks import FRACTION, find_problems

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

    jitter_share: float = 0.3
    jitter: float = 0.12
    loose_share: float = 0.25
    evenly_loose_share: float = 0.0
    looseness: float = 0.2

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        shares = ("jitter_share", "loose_share", "evenly_loose_share")
        bounds = dict.fromkeys((*shares, "jitter", "looseness"), FRACTION)
        problems = find_problems(self, bounds, prefix="boxes.")
        if not problems and sum(getattr(self, name) for name in shares) > 1.0:
            problems.append("boxes: the shares must add up to at most 1")
        if self.jitter >= 0.5:
            problems.append(f"boxes.jitter must be less than 0.5, got {self.jitter}")
        if problems:
            raise ValueError("; ".join(problems))


def simulate_box(mask: Mask, rng: np.random.Generator, config: BoxConfig) -> Points:
    """A box around the lesion as drawn by hand: tight, jittered or loose.

    Args:
        mask: (S, S), bool, not empty.
        rng: source of randomness.
        config: how boxes miss the lesion.

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
    """A corrective click in the largest wrong region, or on the lesion where nothing is wrong.

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
    if count < 2:
        return _random_pixel(mask, rng), LABEL_FOREGROUND
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
