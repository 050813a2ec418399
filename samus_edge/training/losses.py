"""Losses on masks and on the predicted IoU."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from samus_edge.runtime.bundle.records import NotNegative, check_record

LOSS_SIZE = 256  # logits are compared with masks at the model's input size
SMOOTHING = 1.0


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    Attributes:
        dice: soft Dice loss.
        mse: mean squared error of the probabilities.
        bce: binary cross-entropy.
        multimask: the same three on the best of the multimask outputs, times this.
        iou: squared error of the predicted IoU.
        clicks: cross-entropy at the prompt's clicks, which a mask has to obey.
        proposals: loss of the lesion proposer; the model has one where this is above 0.
    """

    dice: NotNegative = 1.0
    mse: NotNegative = 1.0
    bce: NotNegative = 0.0
    multimask: NotNegative = 0.3
    iou: NotNegative = 0.5
    clicks: NotNegative = 0.0
    proposals: NotNegative = 0.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        has_term = self.dice or self.mse or self.bce
        check_record(
            self, () if has_term else ("one of dice, mse and bce must be above 0, got zeros",)
        )


def dice_loss(mask_logits: Tensor, mask_targets: Tensor) -> Tensor:
    """Soft Dice loss of each mask.

    Args:
        mask_logits: (N, M, H, W), float32, before the sigmoid.
        mask_targets: (N, 1, H, W), float32, values in {0, 1}.

    Returns:
        (N, M), float32, in [0, 1]; 0 is a perfect match.

    Source: V-Net (arXiv 1606.04797), section 3. We differ: plain sums in the denominator, +1
    smoothing.
    """
    probability = torch.sigmoid(mask_logits).flatten(2)
    target = mask_targets.flatten(2)
    intersection = (probability * target).sum(-1)
    total = probability.sum(-1) + target.sum(-1)
    return 1.0 - (2.0 * intersection + SMOOTHING) / (total + SMOOTHING)


def mse_loss(mask_logits: Tensor, mask_targets: Tensor) -> Tensor:
    """Mean squared error of each mask's probabilities, (N, M); arguments as :func:`dice_loss`."""
    error = torch.sigmoid(mask_logits) - mask_targets
    return error.square().flatten(2).mean(-1)


def bce_loss(mask_logits: Tensor, mask_targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of each mask, (N, M); arguments as :func:`dice_loss`."""
    targets = mask_targets.expand_as(mask_logits)
    error = F.binary_cross_entropy_with_logits(mask_logits, targets, reduction="none")
    return error.flatten(2).mean(-1)


def segmentation_loss(
    low_res_masks: Tensor, iou_predictions: Tensor, mask_targets: Tensor, weights: LossWeights
) -> Tensor:
    """Loss of the single mask, of the best multimask output, and the IoU head's error.

    Args:
        low_res_masks: (N, M, h, w), float32 logits; index 0 is the single-mask output.
        iou_predictions: (N, M), float32.
        mask_targets: (N, 1, 256, 256), float32, values in {0, 1}.
        weights: weights of the terms; a term with weight 0 is not computed.

    Returns:
        (N,), float32.

    Source: the report, section 5 (Dice and MSE); Segment Anything (arXiv 2304.02643), appendix A,
    for training the best of several masks and the IoU head.
    """
    logits = upscale(low_res_masks)  # (N, M, 256, 256)
    terms = {"dice": dice_loss, "mse": mse_loss, "bce": bce_loss}
    mask_losses = torch.zeros_like(iou_predictions)  # (N, M)
    for name, term in terms.items():
        if weight := getattr(weights, name):
            mask_losses = mask_losses + weight * term(logits, mask_targets)
    loss = mask_losses[:, 0]
    if weights.multimask:
        loss = loss + weights.multimask * mask_losses[:, 1:].amin(dim=1)
    if weights.iou:
        iou_error = (iou_predictions - mask_iou(logits, mask_targets)).square().mean(dim=1)
        loss = loss + weights.iou * iou_error
    return loss


def click_loss(low_res_masks: Tensor, point_coords: Tensor, point_labels: Tensor) -> Tensor:
    """Cross-entropy of the logits where a prompt clicks, with what it says of them.

    Args:
        low_res_masks: (N, h, w), float32 logits.
        point_coords: (N, P, 2), float32, (x, y) in the model frame of 256x256.
        point_labels: (N, P), float32; 1 and 0 are clicks, all others are not looked at.

    Returns:
        Scalar, float32: mean over the clicks; 0 without any.
    """
    # both frames from -1 to 1, edge to edge
    places = (2.0 * (point_coords + 0.5) / LOSS_SIZE - 1.0)[:, None]  # (N, 1, P, 2)
    sampled = F.grid_sample(
        low_res_masks[:, None], places, padding_mode="border", align_corners=False
    )
    logits = sampled[:, 0, 0]  # (N, P)
    is_click = (point_labels == 0) | (point_labels == 1)
    errors = F.binary_cross_entropy_with_logits(
        logits, point_labels.clamp(0.0, 1.0), reduction="none"
    )
    return (errors * is_click).sum() / is_click.sum().clamp(min=1)


def upscale(low_res_masks: Tensor) -> Tensor:
    """Logits (N, M, h, w) to (N, M, 256, 256), bilinear with half-pixel centres."""
    return F.interpolate(low_res_masks.float(), size=(LOSS_SIZE, LOSS_SIZE), mode="bilinear")


@torch.no_grad()
def mask_iou(mask_logits: Tensor, mask_targets: Tensor) -> Tensor:
    """IoU of thresholded logits (N, M, H, W) with masks (N, 1, H, W): (N, M), in [0, 1]."""
    predicted = mask_logits > 0
    target = mask_targets > 0.5
    intersection = (predicted & target).flatten(2).sum(-1)
    union = (predicted | target).flatten(2).sum(-1).clamp(min=1)
    return intersection / union
