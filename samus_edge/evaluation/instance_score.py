"""How well one lesion was segmented from one prompt."""

from dataclasses import dataclass
from typing import Final

__all__ = ["AS_IS", "InstanceScore"]

AS_IS: Final = "as_is"
"""Name of the image that is not perturbed."""


@dataclass(frozen=True)
class InstanceScore:
    """How well one lesion was segmented from one prompt."""

    key: str
    """Case key, such as ``"benign/benign (104)"``."""
    class_name: str
    """Class of the image."""
    instance: int
    """Number of the lesion in its image, from 0."""
    group: str
    """Images that share it are near-duplicates, or the same image."""
    size: str
    """``"small"``, ``"medium"`` or ``"large"``; see `samus_edge.evaluation.lesion_size`."""
    diameter_px: float
    """Diameter of the circle with the lesion's area at 256x256, pixels."""
    image: str
    """``"as_is"``, or the name of the image perturbation."""
    prompt: str
    """Name of the prompt protocol."""
    prompt_coords: str
    """The prompt in pixels of the image that was encoded: ``"x1 y1 x2 y2"``, ``"x y"``, or both."""
    height: int
    """Of the original image, pixels."""
    width: int
    """Of the original image, pixels."""
    dice: float
    """Dice at the image's own size, 0..1."""
    iou: float
    """IoU at the image's own size, 0..1."""
    nsd: float
    """Normalised surface Dice at 256x256 with a tolerance of 2 pixels, 0..1."""
    hd: float
    """Euclidean Hausdorff distance at 256x256, pixels."""
    hd_manhattan: float
    """Manhattan Hausdorff distance at 256x256, pixels."""
    hd95: float
    """95th-percentile Hausdorff distance of the outlines at 256x256, pixels."""
    hd_rows: float
    """The row distance that SAMUS's reference reports as Hausdorff distance, at 256x256, pixels."""
    iou_prediction: float
    """The model's own estimate of the IoU; not clipped."""
