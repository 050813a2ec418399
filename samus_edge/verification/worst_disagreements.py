"""The prompts at which a precision's mask differs most from the reference's, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import Prompt
from samus_edge.errors import BadArgumentError
from samus_edge.evaluation.metrics import Mask
from samus_edge.runtime.images.canvas import Canvas
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay
from samus_edge.verification.comparison import PromptComparison

__all__ = ["Disagreement", "WorstDisagreements", "draw_disagreement"]

MARGIN = 0.3
"""What is shown around the masks, as a fraction of their box."""
MIN_MARGIN_PX = 12
MIN_SIDE = 0.7
"""Shorter side of what is shown, as a fraction of the longer: a strip would be drawn too small."""


@dataclass(frozen=True, eq=False)
class Disagreement:
    """One prompt with both masks.

    Attributes:
        precision: whose mask it is.
        comparison: its figures.
        image: (H, W), uint8, grey.
        prompt: in pixels of the image.
        mask: (H, W), bool, the precision's.
        reference_mask: (H, W), bool.
        target: (H, W), bool, the true mask; None where it is not known.
    """

    precision: str
    comparison: PromptComparison
    image: npt.NDArray[np.uint8]
    prompt: Prompt
    mask: Mask
    reference_mask: Mask
    target: Mask | None

    @property
    def caption(self) -> str:
        """What it is of, in a line."""
        of = self.comparison
        lesion = "" if self.target is None else f", lesion {of.instance}"
        text = f"{of.case}{lesion}, {of.prompt}: mask IoU {of.mask_iou:.4f}"
        if of.dice is not None and of.dice_reference is not None:
            text += f", Dice {of.dice:.4f}, of the reference {of.dice_reference:.4f}"
        return text if of.is_finite else f"{text}; NaN or infinite logits"


class WorstDisagreements:
    """Keeps the few prompts of each precision whose masks agree least; equal masks are never kept.

    Args:
        count: how many of each precision; at least 0.
    """

    def __init__(self, count: int) -> None:
        if count < 0:
            raise BadArgumentError(f"count must be at least 0, got {count}.")
        self._count = count
        self._kept: dict[str, list[Disagreement]] = {}

    def wants(self, precision: str, mask_iou: float) -> bool:
        """Whether one with this mask IoU would be kept."""
        kept = self._kept.get(precision, [])
        if self._count == 0 or mask_iou >= 1.0:
            return False
        return len(kept) < self._count or mask_iou < kept[-1].comparison.mask_iou

    def add(self, disagreement: Disagreement) -> None:
        """Keep it where it is among the worst so far."""
        if not self.wants(disagreement.precision, disagreement.comparison.mask_iou):
            return
        kept = self._kept.setdefault(disagreement.precision, [])
        kept.append(disagreement)
        kept.sort(key=lambda each: each.comparison.mask_iou)
        del kept[self._count :]

    def of(self, precision: str) -> tuple[Disagreement, ...]:
        """Those of a precision, lowest mask IoU first."""
        return tuple(self._kept.get(precision, ()))


def draw_disagreement(disagreement: Disagreement) -> Canvas:
    """Draw the masks' outlines on the part of the image that they are in.

    Returns:
        (h, w, 3), uint8, RGB; see `samus_edge.runtime.images.overlay.draw_overlay`.
    """
    named = [
        ("truth", disagreement.target),
        ("reference", disagreement.reference_mask),
        (disagreement.precision, disagreement.mask),
    ]
    known = [(name, mask) for name, mask in named if mask is not None]
    prompt = disagreement.prompt
    rows, columns = _part([mask for _, mask in known], prompt, disagreement.image.shape)
    items = []
    for name, mask in known:
        caption = name if mask.any() else f"{name}: empty"
        items.append(OverlayItem(mask[rows, columns], caption))
    # The prompt has no mask of its own; the last item carries it, which is drawn on top.
    offset = np.array([columns.start, rows.start], np.float32)
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = (prompt.box.reshape(2, 2) - offset).ravel().tolist()
        box = (x1, y1, x2, y2)
    points = [(x, y, 1) for x, y in (prompt.points - offset).tolist()]
    items[-1] = OverlayItem(items[-1].mask, items[-1].caption, box, points)
    return draw_overlay(np.ascontiguousarray(disagreement.image[rows, columns]), items)


def _part(masks: Sequence[Mask], prompt: Prompt, hw: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns that hold all masks and the prompt, with a margin."""
    height, width = hw
    any_mask = np.logical_or.reduce(masks)
    xy = [np.argwhere(any_mask)[:, ::-1].astype(np.float64), prompt.points.astype(np.float64)]
    if prompt.box is not None:
        xy.append(prompt.box.reshape(2, 2).astype(np.float64))
    coords = np.concatenate(xy)  # (points, 2)
    low, high = coords.min(axis=0), coords.max(axis=0)
    margin = np.maximum((high - low) * MARGIN, MIN_MARGIN_PX)
    side = high - low + 2 * margin
    margin += np.maximum(MIN_SIDE * side.max() - side, 0) / 2
    left, top = np.maximum(np.floor(low - margin), 0).astype(int).tolist()
    right, bottom = np.ceil(high + margin + 1).astype(int).tolist()
    return slice(top, min(bottom, height)), slice(left, min(right, width))
