"""What must hold before a precision of a bundle ships: limits, their reasons, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from samus_edge.evaluation.verification_figures import PrecisionFigures
from samus_edge.runtime.json_fields import JsonValue

__all__ = ["GATES", "Gate", "GateOutcome", "VerificationGates", "judge"]


@dataclass(frozen=True)
class Gate:
    """One limit.

    Attributes:
        label: what is limited, for people.
        limit: the last value that passes.
        reason: why there is a limit, and why this one.
        unit: of the limit, with the space before it; "" for a plain number.
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
            raise ValueError(f"the limit of {self.label} must be finite, got {self.limit}.")

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
        "A result is the same each time on one backend; a medical user has to be able to repeat it.",
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
            ValueError: if it is outside that.
        """
        if not 0.0 <= points <= 100.0:
            raise ValueError(f"max_drop must be from 0 to 100 Dice points, got {points}.")
        return replace(
            self,
            fp16_dice_drop=replace(self.fp16_dice_drop, limit=points),
            int8_dice_drop=replace(self.int8_dice_drop, limit=points),
        )

    def name_of(self, gate: Gate) -> str:
        """The field that holds a gate."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is gate)


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
        """As plain values."""
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

    def held(gate: Gate, value: float | None, prompt: str = "", missing: str = "") -> GateOutcome:
        passed = value is not None and gate.holds(value)
        detail = missing if value is None else ""
        return GateOutcome(gates.name_of(gate), gate, prompt, value, detail, passed)

    if figures.error:
        return (held(gates.runs, None, missing=figures.error),)
    outcomes = [
        held(gates.not_finite, float(figures.not_finite_frames + figures.not_finite_prompts)),
        held(gates.largest_value, figures.largest_value, missing="nothing finite was computed"),
    ]
    if figures.repeat_logit_error is not None:
        outcomes.append(held(gates.repeat_logit_error, figures.repeat_logit_error))
    if figures.threads_logit_error is not None:
        outcomes.append(held(gates.threads_logit_error, figures.threads_logit_error))
    if figures.is_reference:
        unrecorded = "the manifest has none; export the bundle again"
        for gate, field in (
            (gates.parity_logit_error, "max_abs_logit_error"),
            (gates.parity_mask_iou, "min_mask_iou"),
        ):
            outcomes.append(held(gate, _number(parity.get(field)), missing=unrecorded))
        return tuple(outcomes)
    is_int8 = figures.precision.startswith("int8")
    for protocol in figures.protocols:
        if protocol.dice_drop is not None:
            budget = gates.int8_dice_drop if is_int8 else gates.fp16_dice_drop
            outcomes.append(held(budget, protocol.dice_drop, protocol.prompt))
        elif is_int8:
            outcomes.append(held(gates.int8_mean_mask_iou, protocol.mask_iou_mean, protocol.prompt))
        else:
            outcomes += [
                held(gates.fp16_mean_mask_iou, protocol.mask_iou_mean, protocol.prompt),
                held(gates.fp16_worst_mask_iou, protocol.mask_iou_worst, protocol.prompt),
            ]
    return tuple(outcomes)


def _number(value: JsonValue) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]  # checked just above
