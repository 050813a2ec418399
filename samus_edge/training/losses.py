"""Losses on masks and on the predicted IoU."""

import torch
from torch import Tensor
from torch.nn import functional as F

LOSS_SIZE = 256  # logits are compared with masks at the model's input size
MULTIMASK_WEIGHT = 0.3
IOU_WEIGHT = 0.5
SMOOTHING = 1.0


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


def segmentation_loss(
    low_res_masks: Tensor, iou_predictions: Tensor, mask_targets: Tensor
) -> Tensor:
    """Dice + MSE of the single mask and of the best multimask output, and the IoU head's error.

    Args:
        low_res_masks: (N, M, h, w), float32 logits; index 0 is the single-mask output.
        iou_predictions: (N, M), float32.
        mask_targets: (N, 1, 256, 256), float32, values in {0, 1}.

    Returns:
        (N,), float32.

    Source: the report, section 5 (Dice and MSE); Segment Anything (arXiv 2304.02643), appendix A,
    for training the best of several masks and the IoU head.
    """
    logits = upscale(low_res_masks)  # (N, M, 256, 256)
    mask_losses = dice_loss(logits, mask_targets) + mse_loss(logits, mask_targets)  # (N, M)
    best_multimask = mask_losses[:, 1:].amin(dim=1)
    iou_error = (iou_predictions - mask_iou(logits, mask_targets)).square().mean(dim=1)
    return mask_losses[:, 0] + MULTIMASK_WEIGHT * best_multimask + IOU_WEIGHT * iou_error


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
