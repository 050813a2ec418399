"""What the lesion proposer learns: its targets from masks, and its loss."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from samus_edge.modeling.lesion_proposer import BOX_UNIT

_SPREAD = 1 / 6
"""Standard deviation of a centre's target, fraction of the lesion's side."""
_MIN_SPREAD = 0.8  # cells
_CENTRAL = 0.3
"""Value of the centre's target from which on a cell learns the box."""


def proposal_targets(
    masks: Sequence[npt.NDArray[np.bool_]], embedding_side: int
) -> npt.NDArray[np.float32]:
    """Maps that the proposer should give for an image.

    Args:
        masks: the lesions that the image shows, each (S, S); empty ones, and none, for no lesion.
        embedding_side: h, side of the maps, cells.

    Returns:
        (6, h, h): share of each cell that is lesion; the centres, 1 at the centre and less with the
        distance; distances to the sides of the box that the centre belongs to, in `BOX_UNIT`, 0 far
        from centres.
    """
    maps = np.zeros((6, embedding_side, embedding_side), np.float32)
    for mask in masks:
        ys, xs = np.nonzero(mask)
        if len(xs) == 0:
            continue
        cell = mask.shape[0] / embedding_side
        grid = (np.arange(embedding_side) + 0.5) * cell - 0.5  # pixels
        sides = np.array([xs.min(), ys.min(), xs.max(), ys.max()], np.float64)
        spread = np.maximum(_SPREAD * (sides[2:] - sides[:2] + 1), _MIN_SPREAD * cell)
        # on the cell that is nearest to it, so that there is one cell of 1
        middle = grid[np.abs(grid[None] - [[xs.mean()], [ys.mean()]]).argmin(axis=1)]  # x, y
        across, down = (
            np.exp(-(((grid - m) / s) ** 2) / 2) for m, s in zip(middle, spread, strict=True)
        )
        centre = (down[:, None] * across[None]).astype(np.float32)
        is_nearest = (centre > maps[1]) & (centre >= _CENTRAL)
        distances = np.stack(
            np.broadcast_arrays(
                (grid - sides[0])[None],
                (grid - sides[1])[:, None],
                (sides[2] - grid)[None],
                (sides[3] - grid)[:, None],
            )
        )
        maps[2:] = np.where(is_nearest, np.maximum(distances, 0.0) / BOX_UNIT, maps[2:])
        maps[1] = np.maximum(maps[1], centre)
        share = cv2.resize(mask.astype(np.float32), maps.shape[1:], interpolation=cv2.INTER_AREA)
        maps[0] = np.maximum(maps[0], share)
    return maps


def proposal_loss(maps: Tensor, presence: Tensor, targets: Tensor, has_presence: Tensor) -> Tensor:
    """Loss of the lesion proposer.

    Args:
        maps: (B, 6, h, h), as `LesionProposer` gives them.
        presence: (B,) logits.
        targets: (B, 6, h, h), as `proposal_targets` gives them.
        has_presence: (B,), 1 where the presence of a lesion is learned, as in a dataset that has
            images without one, or else 0.

    Returns:
        (B,), float32: focal loss of the centres (CenterNet, arXiv 1904.07850), cross-entropy and
        Dice of the map of lesions, IoU and distances of the boxes near centres, and cross-entropy
        of the presence.
    """
    maps, presence = maps.float(), presence.float()
    lesion, centre, distances = targets[:, 0], targets[:, 1], targets[:, 2:]
    is_peak = (centre >= 0.999).float()
    log_p, log_not = F.logsigmoid(maps[:, 1]), F.logsigmoid(-maps[:, 1])
    p = torch.sigmoid(maps[:, 1])
    focal = -(is_peak * (1 - p) ** 2 * log_p + (1 - is_peak) * (1 - centre) ** 4 * p**2 * log_not)
    focal = focal.sum((1, 2)) / is_peak.sum((1, 2)).clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(maps[:, 0], lesion, reduction="none").mean((1, 2))
    found = torch.sigmoid(maps[:, 0])
    dice = 1 - (2 * (found * lesion).sum((1, 2)) + 1) / ((found + lesion).sum((1, 2)) + 1)
    weight = centre * (centre >= _CENTRAL)
    error = (maps[:, 2:] - distances).abs().mean(1)
    overlap = torch.minimum(maps[:, 2:], distances)
    overlap_area = (overlap[:, 0] + overlap[:, 2]) * (overlap[:, 1] + overlap[:, 3])
    area, target_area = (
        (each[:, 0] + each[:, 2]) * (each[:, 1] + each[:, 3]) for each in (maps[:, 2:], distances)
    )
    iou = overlap_area / (area + target_area - overlap_area).clamp(min=1e-4)
    boxes = ((error + 1 - iou) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-4)
    shows_lesion = (lesion.amax((1, 2)) > 0).float()
    said = F.binary_cross_entropy_with_logits(presence, shows_lesion, reduction="none")
    return focal + entropy + dice * shows_lesion + boxes + has_presence * said
