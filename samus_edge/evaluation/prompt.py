"""What a lesion is prompted with, and how it moves when the image is resized."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Prompt", "PromptArrays", "prompt_arrays", "scale_prompt"]


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
