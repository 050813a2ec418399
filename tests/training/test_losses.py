"""Losses against numpy on small masks worked out by hand."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from samus_edge.training.losses import (
    LossWeights,
    bce_loss,
    click_loss,
    dice_loss,
    mask_iou,
    mse_loss,
    segmentation_loss,
    upscale,
)

TOLERANCE = 1e-6
"""Float32, values around 1."""

SURE = 40.0  # sigmoid(40) is 1 and sigmoid(-40) 0 to the last digit of float32
HALVES = np.array([[0.0, 0.0], [0.0, 0.0]])  # probability 1/2 everywhere
LEFT = np.array([[SURE, -SURE], [SURE, -SURE]])
NOTHING = np.full((2, 2), -SURE)
LEFT_TARGET = np.array([[1.0, 0.0], [1.0, 0.0]])
EMPTY_TARGET = np.zeros((2, 2))


def tensor(image: npt.NDArray[np.float64]) -> Tensor:
    """(1, 1, H, W), float32."""
    return torch.from_numpy(image.astype(np.float32))[None, None]


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        (LEFT, LEFT_TARGET, 0.0),  # perfect: 1 - (2 * 2 + 1) / (4 + 1)
        (NOTHING, EMPTY_TARGET, 0.0),  # perfect: 1 - 1 / 1
        (NOTHING, LEFT_TARGET, 1 - 1 / 3),
        (LEFT, EMPTY_TARGET, 1 - 1 / 3),
        (-LEFT, LEFT_TARGET, 1 - 1 / 5),
        (HALVES, LEFT_TARGET, 1 - (2 * 1 + 1) / (2 + 2 + 1)),
    ],
)
def test_dice_loss(
    logits: npt.NDArray[np.float64], target: npt.NDArray[np.float64], expected: float
) -> None:
    assert float(dice_loss(tensor(logits), tensor(target))) == pytest.approx(
        expected, abs=TOLERANCE
    )


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        (LEFT, LEFT_TARGET, 0.0),
        (NOTHING, EMPTY_TARGET, 0.0),
        (NOTHING, LEFT_TARGET, 0.5),
        (-LEFT, LEFT_TARGET, 1.0),
        (HALVES, LEFT_TARGET, 0.25),
        (np.array([[np.log(3), 0.0], [0.0, 0.0]]), EMPTY_TARGET, (0.5625 + 3 * 0.25) / 4),
    ],
)
def test_mse_loss(
    logits: npt.NDArray[np.float64], target: npt.NDArray[np.float64], expected: float
) -> None:
    assert float(mse_loss(tensor(logits), tensor(target))) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        (LEFT, LEFT_TARGET, 0.0),
        (NOTHING, EMPTY_TARGET, 0.0),
        (HALVES, LEFT_TARGET, np.log(2)),
        (-LEFT, LEFT_TARGET, SURE),  # -log(sigmoid(-x)) is x to the last digit
        (np.full((2, 2), np.log(3)), LEFT_TARGET, -(np.log(0.75) + np.log(0.25)) / 2),
    ],
)
def test_bce_loss(
    logits: npt.NDArray[np.float64], target: npt.NDArray[np.float64], expected: float
) -> None:
    assert float(bce_loss(tensor(logits), tensor(target))) == pytest.approx(expected, abs=TOLERANCE)


def test_losses_and_overlap_are_taken_mask_by_mask() -> None:
    logits = torch.cat((tensor(LEFT), tensor(HALVES), tensor(NOTHING)), dim=1)  # (1, 3, 2, 2)
    logits = torch.cat((logits, logits.flip(1)))  # (2, 3, 2, 2)
    targets = torch.cat((tensor(LEFT_TARGET), tensor(EMPTY_TARGET)))
    for function in (dice_loss, mse_loss, bce_loss, mask_iou):
        together = function(logits, targets)
        assert together.shape == (2, 3)
        for n in range(2):
            for m in range(3):
                alone = function(logits[n : n + 1, m : m + 1], targets[n : n + 1])
                torch.testing.assert_close(alone[0, 0], together[n, m], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        (LEFT, LEFT_TARGET, 1.0),
        (-LEFT, LEFT_TARGET, 0.0),
        (np.array([[1.0, 1.0], [-1.0, -1.0]]), LEFT_TARGET, 1 / 3),
        (np.array([[1.0, 1.0], [1.0, -1.0]]), LEFT_TARGET, 2 / 3),
        (HALVES, LEFT_TARGET, 0.0),  # a logit of 0 is background
        (NOTHING, EMPTY_TARGET, 0.0),  # nothing to agree on; a lesion is never empty
    ],
)
def test_mask_iou(
    logits: npt.NDArray[np.float64], target: npt.NDArray[np.float64], expected: float
) -> None:
    assert float(mask_iou(tensor(logits), tensor(target))) == pytest.approx(expected, abs=TOLERANCE)


def test_logits_are_upscaled_to_256_with_half_pixel_centres() -> None:
    ramp = torch.arange(128.0).expand(1, 1, 128, 128)
    upscaled = upscale(ramp)
    assert upscaled.shape == (1, 1, 256, 256)
    columns = (np.arange(256) + 0.5) / 2 - 0.5
    expected = np.clip(columns, 0, 127)
    np.testing.assert_allclose(upscaled[0, 0, 17].numpy(), expected, rtol=0, atol=1e-5)


def test_segmentation_loss_sums_the_single_mask_the_best_of_the_others_and_the_iou_error() -> None:
    left = np.repeat(LEFT_TARGET, 64, axis=0).repeat(64, axis=1)  # (128, 128)
    good, bad = (2 * left - 1) * SURE, (1 - 2 * left) * SURE
    half = np.zeros((128, 128))
    target = tensor(np.repeat(left, 2, axis=0).repeat(2, axis=1))
    iou_predictions = torch.tensor([[0.75, 0.0, 1.0, 0.5]])
    logits = torch.cat([tensor(image) for image in (half, bad, good, half)], dim=1)
    weights = LossWeights(dice=1.0, mse=2.0, multimask=0.3, iou=0.5)
    loss = segmentation_loss(logits, iou_predictions, target, weights)
    assert loss.shape == (1,)
    area = 256 * 256 / 2
    half_mask = (1 - (area + 1) / (2 * area + 1)) + 2.0 * 0.25
    # bilinear upscaling leaves two columns between the halves undecided: (0.25, 0.75 of the way)
    upscaled = upscale(logits)
    best = float((dice_loss(upscaled, target) + 2.0 * mse_loss(upscaled, target))[0, 2])
    assert best < 0.01 * half_mask
    iou_error = (0.75**2 + 0.0**2 + (1 - 1.0) ** 2 + 0.5**2) / 4
    expected = half_mask + 0.3 * best + 0.5 * iou_error
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_only_the_best_of_the_multimask_outputs_learns() -> None:
    target = torch.zeros(1, 1, 256, 256)
    target[:, :, :, :128] = 1
    towards = (2 * target[:, :, ::2, ::2] - 1) * 0.1
    logits = torch.cat((towards, -towards, 2 * towards, towards), dim=1).requires_grad_()
    segmentation_loss(logits, torch.zeros(1, 4), target, LossWeights()).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert [bool(logits.grad[0, mask].any()) for mask in range(4)] == [True, False, True, False]


def test_the_iou_head_learns_but_the_overlap_does_not_move_the_masks() -> None:
    predictions = torch.full((1, 4), 0.9, requires_grad=True)
    logits = torch.full((1, 4, 128, 128), -SURE)
    targets = torch.ones(1, 1, 256, 256)
    segmentation_loss(logits, predictions, targets, LossWeights()).sum().backward()  # type: ignore[no-untyped-call]
    # d/dp of 0.5 * mean((p - 0)^2) = 0.5 * 2 * 0.9 / 4
    assert predictions.grad is not None
    torch.testing.assert_close(predictions.grad, torch.full((1, 4), 0.225), rtol=0, atol=TOLERANCE)


def test_a_term_without_weight_teaches_nothing() -> None:
    target = torch.zeros(1, 1, 256, 256)
    target[:, :, :, :128] = 1
    predictions = torch.full((1, 4), 0.9, requires_grad=True)
    logits = torch.zeros(1, 4, 128, 128, requires_grad=True)
    weights = LossWeights(dice=0.0, mse=0.0, bce=1.0, multimask=0.0, iou=0.0)
    loss = segmentation_loss(logits, predictions, target, weights)
    assert float(loss.detach()) == pytest.approx(np.log(2), abs=TOLERANCE)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert predictions.grad is None and logits.grad is not None
    assert [bool(logits.grad[0, mask].any()) for mask in range(4)] == [True, False, False, False]


def test_clicks_are_judged_where_they_are_and_nothing_else_is() -> None:
    """The left half is lesion, with logits of 3: a click there costs log(1 + exp(-3))."""
    logits = torch.full((2, 128, 128), -3.0)
    logits[:, :, :64] = 3.0
    coords = torch.tensor([[[20.0, 90.0], [200.0, 90.0], [5.0, 5.0]], [[200.0, 5.0]] * 3])
    labels = torch.tensor([[1.0, 0.0, 2.0], [1.0, -1.0, 3.0]])
    right, wrong = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    expected = (right + right + wrong) / 3
    assert float(click_loss(logits, coords, labels)) == pytest.approx(expected, rel=1e-5)
    assert float(click_loss(logits, coords, torch.full((2, 3), 2.0))) == 0.0
