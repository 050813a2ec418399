"""One frame, or one prompt, as one precision answers it beside the reference."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BackendError
from samus_edge.evaluation.metrics import Mask, dice, iou
from samus_edge.evaluation.precision_graphs import DecodedPrompts
from samus_edge.runtime.backend import FloatTensor

__all__ = [
    "FrameComparison",
    "PromptComparison",
    "absolute_difference",
    "compare_frame",
    "compare_prompt",
]


@dataclass(frozen=True)
class FrameComparison:
    """The image embeddings of one frame.

    Attributes:
        is_finite: whether all of them are.
        cosine: similarity to the reference's embeddings, -1..1; None unless both are finite.
        error: largest absolute difference to them; None unless both are finite.
        largest: largest absolute value that is finite; None if none is.
    """

    is_finite: bool
    cosine: float | None
    error: float | None
    largest: float | None


@dataclass(frozen=True)
class PromptComparison:
    """The answer to one prompt.

    Attributes:
        prompt: name of the kind of prompt.
        case: name of the frame.
        instance: number of the lesion in its frame, from 0.
        group: prompts that share it are no independent evidence.
        is_finite: whether all logits and predicted IoU are.
        logit_error_max: largest absolute difference of the low-resolution logits to the reference's,
            over all four masks; None unless both are finite.
        logit_error_mean: mean of the same.
        mask_iou: IoU with the reference's mask at frame size, 0..1; 1 where both are empty.
        iou_prediction_error: absolute difference of the predicted IoU of the mask; None unless both
            are finite.
        iou_prediction: the precision's own; None unless finite.
        largest_logit: largest absolute logit that is finite; None if none is.
        is_empty: whether the mask is.
        dice_reference: Dice of the reference's mask with the true one; None where that is not known.
        dice: Dice of the precision's mask with the true one; None where that is not known.
    """

    prompt: str
    case: str
    instance: int
    group: str
    is_finite: bool
    logit_error_max: float | None
    logit_error_mean: float | None
    mask_iou: float
    iou_prediction_error: float | None
    iou_prediction: float | None
    largest_logit: float | None
    is_empty: bool
    dice_reference: float | None
    dice: float | None


def compare_frame(embeddings: FloatTensor, reference: FloatTensor) -> FrameComparison:
    """Compare (1, C, h, w) embeddings with the reference's.

    Raises:
        BackendError: if the shapes differ.
    """
    _check_shapes("image_embeddings", embeddings, reference)
    is_finite = bool(np.isfinite(embeddings).all())
    cosine, error = None, None
    if is_finite and np.isfinite(reference).all():
        cosine = _cosine(embeddings, reference)
        error = float(absolute_difference(embeddings, reference).max())
    return FrameComparison(is_finite, cosine, error, _largest(embeddings))


def compare_prompt(
    *,
    prompt: str,
    case: str,
    instance: int,
    group: str,
    decoded: tuple[DecodedPrompts, DecodedPrompts],
    masks: tuple[Mask, Mask],
    target: Mask | None,
) -> PromptComparison:
    """Compare the answer to one prompt with the reference's.

    Args:
        prompt: name of the kind of prompt.
        case: name of the frame.
        instance: which of the N prompts.
        group: of the frame.
        decoded: the precision's answer to all N prompts, and the reference's.
        masks: (H, W) of this prompt: the precision's, and the reference's.
        target: (H, W) true mask; None where it is not known.

    Raises:
        BackendError: if shapes differ.
    """
    own, reference = decoded
    mask, reference_mask = masks
    logits, expected = own.low_res_masks[instance], reference.low_res_masks[instance]
    _check_shapes("low_res_masks", logits, expected)
    is_finite = bool(own.is_finite[instance])
    iou_prediction = float(own.iou_predictions[instance, 0])
    error_max, error_mean, iou_error = None, None, None
    if is_finite and reference.is_finite[instance]:
        difference = absolute_difference(logits, expected)
        error_max, error_mean = float(difference.max()), float(difference.mean())
        iou_error = abs(iou_prediction - float(reference.iou_predictions[instance, 0]))
    return PromptComparison(
        prompt=prompt,
        case=case,
        instance=instance,
        group=group,
        is_finite=is_finite,
        logit_error_max=error_max,
        logit_error_mean=error_mean,
        mask_iou=iou(mask, reference_mask),
        iou_prediction_error=iou_error,
        iou_prediction=iou_prediction if is_finite else None,
        largest_logit=_largest(logits),
        is_empty=not mask.any(),
        dice_reference=None if target is None else dice(reference_mask, target),
        dice=None if target is None else dice(mask, target),
    )


def absolute_difference(first: FloatTensor, second: FloatTensor) -> npt.NDArray[np.float64]:
    """Of two arrays of one shape; in float64, in which finite float32 numbers cannot overflow."""
    return np.abs(first.astype(np.float64) - second)


def _cosine(first: FloatTensor, second: FloatTensor) -> float:
    """Cosine similarity of the flattened arrays; 1 where both are zero, 0 where one is."""
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return float(norms == (0.0, 0.0))
    return float(a @ b) / (norms[0] * norms[1])


def _largest(values: npt.NDArray[np.float32]) -> float | None:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else None


def _check_shapes(name: str, found: FloatTensor, expected: FloatTensor) -> None:
    if found.shape != expected.shape:
        raise BackendError(
            f"{name} have the shape {found.shape}, and those of the reference {expected.shape}"
        )
