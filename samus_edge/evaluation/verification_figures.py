"""What was measured of one precision, summed up over frames and prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from samus_edge.evaluation.paired_test import compare_paired
from samus_edge.evaluation.precision_comparison import FrameComparison, PromptComparison
from samus_edge.evaluation.precision_latency import LatencyFigures
from samus_edge.runtime.json_fields import JsonValue

__all__ = [
    "DICE_POINTS",
    "PrecisionFigures",
    "ProtocolFigures",
    "failed_figures",
    "summarise_precision",
]

DICE_POINTS: Final = 100.0
"""Dice points in a Dice of 1."""


@dataclass(frozen=True)
class ProtocolFigures:
    """One kind of prompt. What compares with the reference is None for the reference itself; what
    needs true masks is None where they are not known; an error also where nothing was finite.

    Attributes:
        prompt: name of the kind of prompt.
        prompts: how many.
        logit_error_max: largest absolute difference of the low-resolution logits.
        logit_error_mean: mean absolute difference of these.
        mask_iou_mean: mean IoU with the reference's mask at frame size.
        mask_iou_worst: the lowest.
        mask_iou_worst_case: of which frame and lesion.
        iou_prediction_error_mean: mean absolute difference of the predicted IoU.
        iou_prediction_error_max: largest of these.
        dice: mean Dice with the true masks, 0..1.
        dice_reference: that of the reference's masks.
        dice_drop: how many Dice points (0..100) are lost in the mean; negative where some are won.
        dice_drop_interval: 95 % paired bootstrap interval of the drop, points; groups are resampled.
        empty_masks: how many masks are empty.
    """

    prompt: str
    prompts: int
    logit_error_max: float | None = None
    logit_error_mean: float | None = None
    mask_iou_mean: float | None = None
    mask_iou_worst: float | None = None
    mask_iou_worst_case: str | None = None
    iou_prediction_error_mean: float | None = None
    iou_prediction_error_max: float | None = None
    dice: float | None = None
    dice_reference: float | None = None
    dice_drop: float | None = None
    dice_drop_interval: tuple[float, float] | None = None
    empty_masks: int = 0


@dataclass(frozen=True)
class PrecisionFigures:
    """One precision.

    Attributes:
        precision: its name.
        is_reference: whether the others were compared with it.
        frames: how many were encoded.
        prompts: how many were answered.
        not_finite_frames: frames whose embeddings hold NaN or infinity.
        not_finite_prompts: prompts whose logits or predicted IoU do.
        largest_value: largest finite absolute embedding or logit; None if none is finite.
        iou_prediction_range: lowest and highest predicted IoU; None if none is finite.
        embedding_cosine_mean: mean cosine similarity of the embeddings; None for the reference, and
            where none was finite, as the next two.
        embedding_cosine_worst: the lowest.
        embedding_error_max: largest absolute difference of the embeddings.
        protocols: by kind of prompt.
        repeat_logit_error: largest difference of the logits between two sessions; None where they
            are not finite.
        threads_logit_error: the same between two numbers of threads; measured of the reference on
            ONNX Runtime.
        latency: milliseconds; None where nothing ran.
        error: why it does not run; "" if it does.
    """

    precision: str
    is_reference: bool
    frames: int
    prompts: int
    not_finite_frames: int
    not_finite_prompts: int
    largest_value: float | None
    iou_prediction_range: tuple[float, float] | None
    embedding_cosine_mean: float | None
    embedding_cosine_worst: float | None
    embedding_error_max: float | None
    protocols: tuple[ProtocolFigures, ...]
    repeat_logit_error: float | None
    threads_logit_error: float | None
    latency: LatencyFigures | None
    error: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """As plain values; what was not measured is left out."""
        figures = asdict(self)
        return {name: _plain(value) for name, value in figures.items() if value not in (None, "")}


def failed_figures(precision: str, error: str, *, is_reference: bool = False) -> PrecisionFigures:
    """Those of a precision that does not run."""
    nothing = (None,) * 5
    return PrecisionFigures(
        precision, is_reference, 0, 0, 0, 0, *nothing, (), None, None, None, error
    )


def summarise_precision(
    precision: str,
    frames: Sequence[FrameComparison],
    prompts: Sequence[PromptComparison],
    *,
    is_reference: bool,
    seed: int,
    determinism: tuple[float | None, float | None],
    latency: LatencyFigures,
) -> PrecisionFigures:
    """Sum up the comparisons of one precision.

    Args:
        precision: its name.
        frames: one for each frame, at least one.
        prompts: one for each prompt, at least one.
        is_reference: whether it was compared with itself, which says nothing.
        seed: of the bootstrap; at least 0.
        determinism: logit error between two sessions, and between two numbers of threads.
        latency: what was timed.
    """
    cosines = [frame.cosine for frame in frames if frame.cosine is not None]
    errors = [frame.error for frame in frames if frame.error is not None]
    largest = [frame.largest for frame in frames] + [each.largest_logit for each in prompts]
    ious = [each.iou_prediction for each in prompts if each.iou_prediction is not None]
    names = dict.fromkeys(each.prompt for each in prompts)
    compared = cosines and not is_reference
    return PrecisionFigures(
        precision=precision,
        is_reference=is_reference,
        frames=len(frames),
        prompts=len(prompts),
        not_finite_frames=sum(not frame.is_finite for frame in frames),
        not_finite_prompts=sum(not each.is_finite for each in prompts),
        largest_value=_max(largest),
        iou_prediction_range=(min(ious), max(ious)) if ious else None,
        embedding_cosine_mean=float(np.mean(cosines)) if compared else None,
        embedding_cosine_worst=min(cosines) if compared else None,
        embedding_error_max=max(errors) if compared else None,
        protocols=tuple(
            _protocol_figures([each for each in prompts if each.prompt == name], is_reference, seed)
            for name in names
        ),
        repeat_logit_error=determinism[0],
        threads_logit_error=determinism[1],
        latency=latency,
    )


def _protocol_figures(
    prompts: Sequence[PromptComparison], is_reference: bool, seed: int
) -> ProtocolFigures:
    """Of one kind of prompt."""
    name, count = prompts[0].prompt, len(prompts)
    empty = sum(each.is_empty for each in prompts)
    own = [each.dice for each in prompts if each.dice is not None]
    dice = float(np.mean(own)) if own else None
    if is_reference:
        return ProtocolFigures(name, count, dice=dice, empty_masks=empty)
    reference = [each.dice_reference for each in prompts if each.dice_reference is not None]
    drop, interval = None, None
    if own:
        groups = [each.group for each in prompts]
        compared = compare_paired(own, reference, groups, seed=seed)
        drop = DICE_POINTS * compared.mean_difference
        interval = (DICE_POINTS * compared.interval[0], DICE_POINTS * compared.interval[1])
    worst = min(prompts, key=lambda each: each.mask_iou)
    iou_errors = [each.iou_prediction_error for each in prompts]
    return ProtocolFigures(
        prompt=name,
        prompts=count,
        logit_error_max=_max(each.logit_error_max for each in prompts),
        logit_error_mean=_mean(each.logit_error_mean for each in prompts),
        mask_iou_mean=float(np.mean([each.mask_iou for each in prompts])),
        mask_iou_worst=worst.mask_iou,
        mask_iou_worst_case=f"{worst.case}, lesion {worst.instance}" if own else worst.case,
        iou_prediction_error_mean=_mean(iou_errors),
        iou_prediction_error_max=_max(iou_errors),
        dice=dice,
        dice_reference=float(np.mean(reference)) if reference else None,
        dice_drop=drop,
        dice_drop_interval=interval,
        empty_masks=empty,
    )


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _plain(value: object) -> JsonValue:
    """Nested dataclasses as `asdict` leaves them, without what is None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    assert isinstance(value, (bool, int, float, str))  # what the fields above hold
    return value
