"""Cines made from still frames by known motion, so that the true mask of each frame is known."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class CineMotion:
    """How a probe moves.

    Attributes:
        frames: number of frames.
        period: frames of one to-and-fro.
        travel: travel of the lesion's centre, in sides of the frame.
        turn_degrees: turning to either side.
        squeeze: part of the height that pressure takes away, and the width gains.
        gain: part by which brightness goes up and down.
        speckle: standard deviation of the multiplicative noise, new in every frame.
        hidden: frames in which the lesion is out of the plane, first and last; None for never. It
            fades within `fade` frames.
        fade: frames.
    """

    frames: int = 90
    period: int = 60
    travel: float = 0.08
    turn_degrees: float = 6.0
    squeeze: float = 0.08
    gain: float = 0.15
    speckle: float = 0.1
    hidden: tuple[int, int] | None = None
    fade: int = 3


@dataclass(frozen=True, eq=False)
class TrueFrame:
    """A frame of a cine, and what is in it.

    Attributes:
        image: (H, W), uint8.
        mask: (H, W), bool, of the lesion, also where it is hidden.
        visibility: 1 in the plane, 0 out of it.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    visibility: float


def synthetic_cine(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    motion: CineMotion,
    *,
    seed: int = 0,
) -> Iterator[TrueFrame]:
    """Move a frame.

    The whole frame moves with its lesion, as under a moving probe; what comes into view at its
    sides is its mirror image. Out of the plane the lesion is filled in from what is around it.

    Args:
        image: (H, W), uint8.
        mask: (H, W), bool, of its lesion.
        motion: the motion of the probe.
        seed: seed of the speckle.
    """
    generator = np.random.default_rng(seed)
    height, width = image.shape
    rows, columns = np.nonzero(mask)
    centre = (float(columns.mean()), float(rows.mean()))
    without = _without_lesion(image, mask, generator) if motion.hidden else image
    for index in range(motion.frames):
        phase = 2 * math.pi * index / motion.period
        visibility = _visibility(index, motion)
        source = image
        if visibility < 1:
            source = cv2.addWeighted(image, visibility, without, 1 - visibility, 0).astype(np.uint8)
        squeeze = motion.squeeze * 0.5 * (1 - math.cos(phase))
        turn = math.radians(motion.turn_degrees) * math.sin(phase)
        scale = np.diag([1 + squeeze, 1 - squeeze])
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        linear = rotation @ scale
        travel = np.array(
            [
                motion.travel * width * math.sin(phase),
                0.5 * motion.travel * height * (1 - math.cos(phase)),
            ]
        )
        offset = np.asarray(centre) - linear @ np.asarray(centre) + travel
        matrix = np.hstack([linear, offset[:, None]])
        moved = cv2.warpAffine(
            source, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        gain = 1 + motion.gain * math.sin(1.7 * phase)
        noise = 1 + motion.speckle * generator.standard_normal((height, width), np.float32)
        noisy = np.clip(np.rint(moved * gain * noise), 0, 255).astype(np.uint8)
        moved_mask = cv2.warpAffine(
            mask.astype(np.float32), matrix, (width, height), flags=cv2.INTER_LINEAR
        )
        yield TrueFrame(noisy, np.asarray(moved_mask) > 0.5, visibility)


def _visibility(index: int, motion: CineMotion) -> float:
    if motion.hidden is None:
        return 1.0
    first, last = motion.hidden
    distance = max(first - index, index - last, 0)
    return min(1.0, distance / motion.fade)


def _without_lesion(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """The lesion replaced by what is around it, with its grain."""
    side = round(math.sqrt(np.count_nonzero(mask)) / 4) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    hole = cv2.dilate(mask.astype(np.uint8), kernel)
    filled = cv2.inpaint(image, hole, 3, cv2.INPAINT_TELEA)
    ring = (cv2.dilate(hole, kernel) > 0) & (hole == 0)
    grain = float(image[ring].std()) if ring.any() else 0.0
    noise = cv2.GaussianBlur(generator.standard_normal(image.shape).astype(np.float32), (5, 5), 1.2)
    scaled = np.asarray(noise, np.float32) * (grain / max(float(np.std(noise)), 1e-6))
    textured = np.clip(filled + np.where(hole > 0, scaled, 0), 0, 255).astype(np.uint8)
    return np.where(hole > 0, textured, image).astype(np.uint8)
