"""What must hold before a precision of a bundle ships: limits, their reasons, and the verdict."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.evaluation.paired_comparison import compare_paired
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.verification.comparison import DICE_POINTS, FrameComparison, PromptComparison

FASTER_BELOW: Final = 0.95
"""A precision is called faster below this ratio to the reference: a few percent are noise."""


@dataclass(frozen=True)
class LatencyFigures:
    """Medians over frames; ratios are medians of each frame's own, below 1 is faster.

    Attributes:
        encoder_ms: one run of the image encoder, milliseconds.
        decoder_ms: one run of the mask decoder with all prompts of one kind, milliseconds.
        encoder_ratio: ratio to the reference; None for the reference itself, as are the next three.
        decoder_ratio: the same of the decoder.
        ratio: the same of the encoder with one run of the decoder.
        is_faster: whether that is below `FASTER_BELOW`; None also where it was not judged.
        note: why it was not judged; "" if it was.
    """

    encoder_ms: float
    decoder_ms: float
    encoder_ratio: float | None = None
    decoder_ratio: float | None = None
    ratio: float | None = None
    is_faster: bool | None = None
    note: str = ""


@dataclass
class PrecisionTimes:
    """What was timed of one precision, milliseconds.

    Attributes:
        encoder: one time for each frame.
        decoder: for each frame, one time for each kind of prompt.
    """

    encoder: list[float] = field(default_factory=list)
    decoder: list[list[float]] = field(default_factory=list)

    def flat(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Encoder, every run of the decoder, and for each frame the encoder with one such run."""
        runs = np.array([ms for frame in self.decoder for ms in frame])
        encoder = np.array(self.encoder, np.float64)
        return encoder, runs, encoder + [np.mean(frame) for frame in self.decoder]


def latency_figures(
    times: PrecisionTimes, reference: PrecisionTimes | None, *, not_judged: str = ""
) -> LatencyFigures:
    """Sum up what was timed.

    Args:
        times: times of at least one frame.
        reference: times of the same frames; None if ``times`` are the reference's own.
        not_judged: reason not to say whether the precision is faster; "" if there is none.
    """
    encoder, decoder, both = times.flat()
    medians = float(np.median(encoder)), float(np.median(decoder))
    if reference is None:
        return LatencyFigures(*medians)
    encoder_ratio, decoder_ratio, ratio = (
        float(np.median(own / of_reference))
        for own, of_reference in zip((encoder, decoder, both), reference.flat(), strict=True)
    )
    return LatencyFigures(
        *medians,
        encoder_ratio=encoder_ratio,
        decoder_ratio=decoder_ratio,
        ratio=ratio,
        is_faster=None if not_judged else ratio < FASTER_BELOW,
        note=not_judged,
    )


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
        mask_iou_worst_case: name of its frame, and number of its lesion.
        iou_prediction_error_mean: mean absolute difference of the predicted IoU.
        iou_prediction_error_max: largest of these.
        dice: mean Dice with the true masks, 0..1.
        dice_reference: mean Dice of the reference's masks.
        dice_drop: how many Dice points (0..100) are lost in the mean; negative where some are won.
        dice_drop_interval: 95 % paired bootstrap interval of the drop, points, by groups.
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
        protocols: figures for each kind of prompt.
        repeat_logit_error: largest difference of the logits between two sessions; None where they
            are not finite.
        threads_logit_error: the same between two numbers of threads; measured of the reference on
            ONNX Runtime.
        latency: milliseconds; None where nothing ran.
        error: why it does not run; "" if it does.
    """

    precision: str
    is_reference: bool = False
    frames: int = 0
    prompts: int = 0
    not_finite_frames: int = 0
    not_finite_prompts: int = 0
    largest_value: float | None = None
    iou_prediction_range: tuple[float, float] | None = None
    embedding_cosine_mean: float | None = None
    embedding_cosine_worst: float | None = None
    embedding_error_max: float | None = None
    protocols: tuple[ProtocolFigures, ...] = ()
    repeat_logit_error: float | None = None
    threads_logit_error: float | None = None
    latency: LatencyFigures | None = None
    error: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """The same as plain values; what was not measured is left out."""
        figures = asdict(self)
        return {name: _plain(value) for name, value in figures.items() if value not in (None, "")}


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
        seed: seed of the bootstrap; at least 0.
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


@dataclass(frozen=True)
class Gate:
    """One limit.

    Attributes:
        label: what is limited, for people.
        limit: the last value that passes.
        reason: why there is a limit, and why this one.
        unit: unit of the limit, with the space before it; "" for a plain number.
        at_least: whether the limit is the smallest value that passes; else it is the largest.
    """

    label: str
    limit: float
    reason: str
    unit: str = ""
    at_least: bool = False

    def __post_init__(self) -> None:
        """Check the limit."""
        if not math.isfinite(self.limit):
            raise BadArgumentError(f"the limit of {self.label} must be finite, got {self.limit}.")

    def holds(self, value: float) -> bool:
        """Whether a value passes; NaN never does."""
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def rule(self) -> str:
        """The limit in words, such as "allowed 0.2 points"."""
        return f"{'required' if self.at_least else 'allowed'} {self.limit:g}{self.unit}"


@dataclass(frozen=True)
class VerificationGates:
    """All limits; change one with `dataclasses.replace`, those of the Dice with `with_max_drop`."""

    runs: Gate = Gate(
        "graphs that do not run",
        0,
        "A precision that the backend cannot run serves nobody.",
    )
    not_finite: Gate = Gate(
        "frames and prompts with NaN or infinite values",
        0,
        "The runtime refuses such a result, so the user would have no mask.",
    )
    largest_value: Gate = Gate(
        "largest absolute embedding or logit",
        1e4,
        "Half precision ends at 65,504, and trained models stay below a few hundred: what is this "
        "large is about to overflow or was scaled wrongly.",
    )
    repeat_logit_error: Gate = Gate(
        "logit difference between two sessions",
        0,
        "A result is the same each time on one backend; a medical user must be able to repeat it.",
    )
    threads_logit_error: Gate = Gate(
        "logit difference between thread counts",
        1e-3,
        "Sums may be taken in another order, which is as little as the parity with PyTorch allows.",
    )
    parity_logit_error: Gate = Gate(
        "recorded logit difference to PyTorch",
        1e-3,
        "The reference graphs compute what was trained; everything else is compared with them.",
    )
    parity_mask_iou: Gate = Gate(
        "recorded worst mask IoU with PyTorch",
        0.999,
        "A pixel or so of a contour, where a logit is all but zero.",
        at_least=True,
    )
    fp16_dice_drop: Gate = Gate(
        "Dice drop",
        0.2,
        "Half precision has no reason to cost accuracy: 0.2 points are a tenth of the width of the "
        "95 % interval of the mean Dice on 134 lesions.",
        " points",
    )
    int8_dice_drop: Gate = Gate(
        "Dice drop",
        0.5,
        "What 8 bits may cost for their speed: a quarter of that width.",
        " points",
    )
    fp16_mean_mask_iou: Gate = Gate(
        "mean mask IoU with the reference",
        0.995,
        "Without true masks a drop of Dice cannot be measured; masks that agree so well cannot "
        "have one worth naming.",
        at_least=True,
    )
    fp16_worst_mask_iou: Gate = Gate(
        "worst mask IoU with the reference",
        0.96,
        "One mask in pieces would not show in a mean.",
        at_least=True,
    )
    int8_mean_mask_iou: Gate = Gate(
        "mean mask IoU with the reference",
        0.9,
        "Finds a broken conversion and no more: the Dice budget can only be proved on true masks.",
        at_least=True,
    )

    def with_max_drop(self, points: float) -> "VerificationGates":
        """The same with another Dice budget for every precision.

        Args:
            points: Dice points (0..100), from 0 to 100.

        Raises:
            BadArgumentError: if it is outside that.
        """
        if not 0.0 <= points <= 100.0:
            raise BadArgumentError(f"max_drop must be from 0 to 100 Dice points, got {points}.")
        return replace(
            self,
            fp16_dice_drop=replace(self.fp16_dice_drop, limit=points),
            int8_dice_drop=replace(self.int8_dice_drop, limit=points),
        )


GATES: Final = VerificationGates()
"""The project's limits."""


@dataclass(frozen=True)
class GateOutcome:
    """One limit held against one figure.

    Attributes:
        name: field of `VerificationGates`.
        gate: the limit.
        prompt: kind of prompt that the figure is of; "" where it is of all.
        value: the figure; None if there is none.
        detail: why there is none, or what failed.
        passed: whether the limit holds.
    """

    name: str
    gate: Gate
    prompt: str
    value: float | None
    detail: str
    passed: bool

    @property
    def text(self) -> str:
        """In one line, such as "Dice drop with box_5%: 0.62 points, allowed 0.5 points"."""
        label = f"{self.gate.label} with {self.prompt}" if self.prompt else self.gate.label
        if self.value is None:
            return f"{label}: {self.detail}"
        return f"{label}: {self.value:.6g}{self.gate.unit}, {self.gate.rule}"

    def to_json(self) -> dict[str, JsonValue]:
        """The same as plain values."""
        return {
            "name": self.name,
            **({"prompt": self.prompt} if self.prompt else {}),
            **({"detail": self.detail} if self.detail else {}),
            "value": self.value,
            "limit": self.gate.limit,
            "passed": self.passed,
        }


def judge(
    figures: PrecisionFigures, gates: VerificationGates, parity: Mapping[str, JsonValue]
) -> tuple[GateOutcome, ...]:
    """Hold the figures of one precision against the limits.

    Every precision has to run, without NaN and in range, and the same each time. The reference has
    to have been compared with PyTorch at export. The others may lose so many Dice points with each
    kind of prompt, in the mean over the lesions; where true masks are not known, their masks have
    to agree with the reference's.

    Args:
        figures: what was measured.
        gates: the limits.
        parity: the manifest's `parity`, as `samus-edge export` records it.
    """

    def held(name: str, value: float | None, prompt: str = "", missing: str = "") -> GateOutcome:
        gate: Gate = getattr(gates, name)
        passed = value is not None and gate.holds(value)
        return GateOutcome(name, gate, prompt, value, missing if value is None else "", passed)

    if figures.error:
        return (held("runs", None, missing=figures.error),)
    not_finite = float(figures.not_finite_frames + figures.not_finite_prompts)
    outcomes = [
        held("not_finite", not_finite),
        held("largest_value", figures.largest_value, missing="nothing finite was computed"),
    ]
    for name in ("repeat_logit_error", "threads_logit_error"):
        measured = getattr(figures, name)
        if measured is not None:
            outcomes.append(held(name, measured))
    if figures.is_reference:
        missing = "the manifest has none; export the bundle again"
        recorded = {"parity_logit_error": "max_abs_logit_error", "parity_mask_iou": "min_mask_iou"}
        for name, key in recorded.items():
            value = parity.get(key)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                value = None
            outcomes.append(held(name, value, missing=missing))
        return tuple(outcomes)
    kind = "int8" if figures.precision.startswith("int8") else "fp16"
    for protocol in figures.protocols:
        limited: dict[str, float | None] = {f"{kind}_mean_mask_iou": protocol.mask_iou_mean}
        if protocol.dice_drop is not None:
            limited = {f"{kind}_dice_drop": protocol.dice_drop}
        elif kind == "fp16":
            limited["fp16_worst_mask_iou"] = protocol.mask_iou_worst
        outcomes += [held(name, value, protocol.prompt) for name, value in limited.items()]
    return tuple(outcomes)
