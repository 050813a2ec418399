"""How far a mask can be trusted: the chance that it is good, and how far its sizes may be off.

The network's own estimate, `iou_predictions`, is too high, most of all on images that are unlike
those it was trained on. So a bundle carries a calibration, which was fitted on masks of known truth
(`samus-edge calibrate --quality`): a logistic model of the figures below, and for each range of
probability the factors by which sizes were off. See docs/quality.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BundleError
from samus_edge.runtime.bundle.records import (
    Bound,
    Fraction,
    JsonValue,
    Positive,
    RecordError,
    check_record,
    from_json,
)
from samus_edge.runtime.prompts import Prompts

if TYPE_CHECKING:
    from samus_edge.runtime.measurement.lesion_measurements import LesionMeasurements

GOOD_DICE: Final = 0.8
"""A mask is good from this Dice with the truth on: about as well as two people agree."""

COVERAGE: Final = 0.9
"""Share of lesions whose true size is to lie in its interval."""

VERSION: Final = 1
"""Of the calibration: what is in it, and how the figures below are computed."""

FEATURES: Final = (
    "predicted_iou",  # log odds
    "certainty",  # of the pixels: log odds of the Dice that they expect of their own mask
    "certainty_inside",  # log odds of the mean probability inside
    "has_box",
    "box_iou",  # of the mask's own box with the prompt's; 0 without
    "is_corrected",  # by clicks beyond the first prompt, or an earlier mask
    "fills_its_box",  # share
    "frame_sides",  # how many of them it touches
)
"""What the logistic model takes of a mask, in its order."""

QualityState: TypeAlias = Literal["ok", "check", "ask for a click"]
_OK_FROM, _CHECK_FROM = 0.9, 0.5


@dataclass(frozen=True)
class Quality:
    """What is to be expected of a mask.

    Attributes:
        probability: Calibrated probability that the mask is good: Dice with the truth of at least
            0.8. 0 for an empty mask.
        area_factors: By what to multiply the measured area, for the ends of an interval that holds
            nine of ten true ones.
        diameter_factors: The same for the longest diameter.
    """

    probability: float
    area_factors: tuple[float, float]
    diameter_factors: tuple[float, float]

    @property
    def state(self) -> QualityState:
        """ "ok" from a probability of 0.9 on; "check", look at it, from 0.5 on; else "ask for a
        click", because the mask is more probably poor than good."""
        if self.probability >= _OK_FROM:
            return "ok"
        return "check" if self.probability >= _CHECK_FROM else "ask for a click"

    def doubted(self, score: float) -> "Quality":
        """Of a mask that a proposal of this score led to: the calibration knows prompts of people,
        who saw a lesion there."""
        return replace(self, probability=self.probability * score)

    def area_interval(self, measurements: "LesionMeasurements") -> tuple[float, float]:
        """The 90 % interval of the true area, in the unit squared."""
        low, high = self.area_factors
        return measurements.area * low, measurements.area * high

    def diameter_interval(self, measurements: "LesionMeasurements") -> tuple[float, float]:
        """The 90 % interval of the true longest diameter, in the unit."""
        low, high = self.diameter_factors
        return measurements.longest.length * low, measurements.longest.length * high

    def to_json(self, measurements: "LesionMeasurements | None") -> dict[str, Any]:
        """As a JSON object; intervals in the unit of the measurements, None without."""
        area = diameter = None
        if measurements is not None:
            area = [round(end, 3) for end in self.area_interval(measurements)]
            diameter = [round(end, 3) for end in self.diameter_interval(measurements)]
        return {
            "probability": round(self.probability, 4),
            "state": self.state,
            "area_interval": area,
            "longest_diameter_interval": diameter,
        }


@dataclass(frozen=True)
class SizeFactors:
    """True sizes as parts of the measured ones, of masks in a range of probability.

    Attributes:
        from_probability: The least probability; the range ends where the next one begins.
        area: 5 % and 95 % quantile of true area / area, corrected for the number of masks.
        diameter: The same of the longest diameter.
    """

    from_probability: Fraction
    area: tuple[Positive, Positive]
    diameter: tuple[Positive, Positive]


@dataclass(frozen=True)
class QualityCalibration:
    """What a bundle's manifest has under `quality`.

    Attributes:
        version: 1; another one is of a later samus-edge, and is passed over.
        coefficients: Of the logistic model, by `FEATURES` and "intercept".
        factors: Ascending by probability, the first from 0.
        data: What it was fitted on.
        extra: Fields of a later format version, kept as they were read.
    """

    coefficients: Mapping[str, float]
    factors: Annotated[tuple[SizeFactors, ...], Bound("a list that is not empty", bool)]
    data: Mapping[str, JsonValue]
    version: Literal[1] = 1
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            BadArgumentError: naming every bad one.
        """
        problems = []
        if set(self.coefficients) != {*FEATURES, "intercept"}:
            names = ", ".join(("intercept", *FEATURES))
            problems.append(f"coefficients must be of {names}, got {', '.join(self.coefficients)}")
        starts = [each.from_probability for each in self.factors]
        if starts and (starts[0] != 0 or any(a >= b for a, b in pairwise(starts))):
            problems.append(f"factors must ascend from probability 0, got {starts}")
        check_record(self, problems)

    def probability(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of masks with (N, F) features, (N,), that they are good."""
        weights = np.array([self.coefficients[name] for name in FEATURES])
        odds = self.coefficients["intercept"] + np.atleast_2d(features) @ weights  # (N,)
        chances: npt.NDArray[np.float64] = 0.5 + 0.5 * np.tanh(odds / 2)
        return chances

    def quality(self, features: npt.NDArray[np.float64] | None) -> Quality:
        """Of one mask with (F,) features; None for an empty one."""
        probability = 0.0 if features is None else float(self.probability(features)[0])
        found = [each for each in self.factors if each.from_probability <= probability][-1]
        return Quality(probability, found.area, found.diameter)


def read_calibration(recorded: Mapping[str, JsonValue]) -> QualityCalibration | None:
    """The calibration in a manifest; None where there is none, or one of a later version.

    Raises:
        BundleError: if it is damaged.
    """
    if recorded.get("version") != VERSION:
        return None
    try:
        return from_json(QualityCalibration, recorded, "quality")
    except RecordError as err:
        raise BundleError(
            f"the manifest's {err}. Calibrate again: samus-edge calibrate --quality"
        ) from err


def judge_masks(
    calibration: QualityCalibration,
    logits: npt.NDArray[np.float32],
    iou_predictions: npt.NDArray[np.float32],
    prompts: Prompts,
    mask_threshold: float,
) -> tuple[Quality, ...]:
    """What is to be expected of each prompt's one mask; arguments as `mask_features`."""
    features = mask_features(logits, iou_predictions, prompts, mask_threshold)
    return tuple(map(calibration.quality, features))


def mask_features(
    logits: npt.NDArray[np.float32],
    iou_predictions: npt.NDArray[np.float32],
    prompts: Prompts,
    mask_threshold: float,
) -> list[npt.NDArray[np.float64] | None]:
    """The `FEATURES` of N masks, from what the decoder has given anyway.

    Args:
        logits: (N, 1, h, w), float32, after the clicks.
        iou_predictions: (N, 1), float32.
        prompts: The N prompts.
        mask_threshold: A pixel belongs to the mask where its logit is greater than this.

    Returns:
        For each prompt (F,), or None for an empty mask.
    """
    is_corrected = prompts.point_counts > prompts.needed_points
    if prompts.mask_input is not None:
        is_corrected[:] = True
    found: list[npt.NDArray[np.float64] | None] = []
    for row, shifted in enumerate(logits[:, 0] - np.float32(mask_threshold)):
        mask = shifted > 0
        area = np.count_nonzero(mask)
        if area == 0:
            found.append(None)
            continue
        chances = 0.5 + 0.5 * np.tanh(shifted / 2)  # (h, w)
        inside = float(chances[mask].sum(dtype=np.float64))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # Edges of the mask's box, and of the prompt's in cells of the logits.
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        given = None
        if prompts.boxes is not None:
            cells = np.array(mask.shape[::-1]) / np.array(prompts.original_hw[::-1])
            given = (prompts.boxes[row] + np.array([0, 0, 1, 1])) * np.tile(cells, 2)
        found.append(
            np.array(
                [
                    _log_odds(float(iou_predictions[row, 0])),
                    _log_odds(2 * inside / (area + float(chances.sum(dtype=np.float64)))),
                    _log_odds(inside / area),
                    given is not None,
                    0.0 if given is None else _box_iou(box, given),
                    is_corrected[row],
                    area / ((box[2] - box[0]) * (box[3] - box[1])),
                    np.count_nonzero(box == [0, 0, *mask.shape[::-1]]),
                ],
                np.float64,
            )
        )
    return found


def _log_odds(share: float) -> float:
    share = min(max(share, 0.02), 0.998)  # beyond, the network is not to be believed
    return float(np.log(share / (1 - share)))


def _box_iou(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """IoU of two boxes, XYXY edges."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - both)
