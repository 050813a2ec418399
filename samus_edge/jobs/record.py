"""The record of a result: what `infer --json`, `track --json` and the service say alike."""

import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.errors import BadArgumentError, SamusEdgeError
from samus_edge.runtime.cine.cine_source import CineSource
from samus_edge.runtime.cine.lesion_tracker import TrackedFrame
from samus_edge.runtime.measurement.lesion_measurements import (
    BreastLocation,
    LesionMeasurements,
    PixelSpacing,
    box_around,
    measure_lesion,
)
from samus_edge.runtime.notes import QUALITY_UNKNOWN, Note
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.prompts import PADDING_LABEL, Prompts, assign_points_to_boxes, check_prompts
from samus_edge.runtime.quality import Quality
from samus_edge.runtime.segmenter import Segmenter

Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float, int]


class Clock:
    """Wall time of steps that follow one another, milliseconds."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a step; what is done several times adds up."""
        now = time.perf_counter()
        self._laps[name] = self._laps.get(name, 0.0) + 1000 * (now - self._last)
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        """Each step by its name, and "total"."""
        timings = {**self._laps, "total": 1000 * (time.perf_counter() - self._start)}
        return {name: round(value, 3) for name, value in timings.items()}


@dataclass(frozen=True)
class PromptRecord:
    """One prompt as it was used.

    Attributes:
        box: XYXY, pixels of the image, clipped to it; None without a box.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        was_clipped: Whether a part of the box outside the image was cut off.
        proposal_score: How sure the model is of what it proposed; None for a prompt of a person.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    was_clipped: bool = False
    proposal_score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "box": None if self.box is None else list(self.box),
            "points": [list(point) for point in self.points],
            "was_clipped": self.was_clipped,
            "proposal_score": self.proposal_score,
        }


@dataclass(frozen=True)
class MaskRecord:
    """One mask without its pixels.

    Attributes:
        area_px: Number of pixels inside.
        box: The smallest box around it, XYXY, pixel centres, both ends inside; None if empty.
        predicted_iou: The model's estimate of the mask's IoU; not clipped, may leave [0, 1].
        spacing: The size of a pixel that it is measured by; None for sizes in pixels.
        measurements: Sizes of its largest component; None if empty.
        quality: What is to be expected of it; None where the bundle has no calibration.
        prompt: What it was prompted by; empty for a mask that the tracker prompted.
        notes: What a user should know of the prediction and of the size of its pixels.
    """

    area_px: int
    box: tuple[int, int, int, int] | None
    predicted_iou: float
    spacing: PixelSpacing | None
    measurements: LesionMeasurements | None
    quality: Quality | None = None
    prompt: PromptRecord = PromptRecord()
    notes: tuple[Note, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "area_px": self.area_px,
            "box": None if self.box is None else list(self.box),
            "predicted_iou": self.predicted_iou,
            "quality": None if self.quality is None else self.quality.to_json(self.measurements),
            "prompt": self.prompt.to_json(),
            "spacing": None if self.spacing is None else self.spacing.to_json(),
            "measurements": None if self.measurements is None else self.measurements.to_json(),
        }


@dataclass(frozen=True)
class FrameRecord:
    """One frame of a cine without its pixels.

    Attributes:
        frame: Index in the source.
        seconds: Time since the source's first frame; None where it does not say.
        latency_ms: Time from the frame to its mask.
        tracked: What the tracker says of it, without the mask.
        mask: The mask; None where the lesion is lost.
    """

    frame: int
    seconds: float | None
    latency_ms: float
    tracked: TrackedFrame
    mask: MaskRecord | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        tracked, mask = self.tracked, None if self.mask is None else self.mask.to_json()
        return {
            "frame": self.frame,
            "seconds": _rounded(self.seconds),
            "state": tracked.state,
            "reason": tracked.reason,
            "box": None if tracked.box is None else list(tracked.box),
            "predicted_iou": _rounded(tracked.predicted_iou),
            "similarity": _rounded(tracked.similarity),
            "contrast": _rounded(tracked.contrast),
            "latency_ms": round(self.latency_ms, 2),
            **{
                name: None if mask is None else mask[name]
                for name in ("area_px", "spacing", "measurements", "quality")
            },
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def mask_record(
    mask: npt.NDArray[np.bool_],
    predicted_iou: float,
    source: CineSource | None,
    spacing: PixelSpacing | None = None,
    prompt: PromptRecord = PromptRecord(),
    notes: tuple[Note, ...] = (),
    location: BreastLocation | None = None,
    quality: Quality | None = None,
) -> MaskRecord:
    """Measure a mask.

    Args:
        mask: (H, W), bool.
        predicted_iou: The model's estimate of its IoU.
        source: Where the frame is from; None for a source that knows nothing of sizes.
        spacing: The size of a pixel; None takes what the source says.
        prompt: What it was prompted by.
        notes: What a user should know of the prediction.
        location: Where the lesion is, as it was given.
        quality: What is to be expected of it.
    """
    box = box_around(mask)
    if spacing is not None:
        from samus_edge.runtime.dicom.spacing import plausibility_notes

        notes = (*notes, *plausibility_notes(spacing), *_override_notes(spacing, source, box))
    elif source is not None and box is not None:
        spacing, notes = source.spacing_in(box), (*notes, *source.spacing_notes(box))
    measurements = measure_lesion(mask, spacing, location)
    if measurements is not None:
        notes = (*notes, *_axis_notes(measurements), *_side_notes(location, source))
    return MaskRecord(
        area_px=int(np.count_nonzero(mask)),
        box=box,
        predicted_iou=round(float(predicted_iou), 6),
        spacing=spacing,
        measurements=measurements,
        quality=quality,
        prompt=prompt,
        notes=notes,
    )


def _override_notes(
    given: PixelSpacing, source: CineSource | None, box: tuple[int, int, int, int] | None
) -> tuple[Note, ...]:
    """Whether a given size of a pixel takes the place of another that the file states."""
    stated = None if source is None or box is None else source.spacing_in(box)
    if stated is None or stated.unit != "mm":
        return ()
    pairs = ((given.row_mm, stated.row_mm), (given.column_mm, stated.column_mm))
    if all(abs(own - other) <= 0.01 * other for own, other in pairs):
        return ()
    text = (
        f"The file says that a pixel is {stated.column_mm:.4g} x {stated.row_mm:.4g} mm; the given "
        f"{given.column_mm:.4g} x {given.row_mm:.4g} mm are taken."
    )
    return (Note("spacing_overridden", "warning", text),)


def _axis_notes(found: LesionMeasurements) -> tuple[Note, ...]:
    """Whether the search for the longest axis was cut short by more than a hundredth."""
    length, at_most = found.longest.length, found.longest_at_most
    if at_most <= 1.01 * length:
        return ()
    text = (
        f"The mask is so ragged that its longest axis is only known to be {length:.1f} to "
        f"{at_most:.1f} {found.unit}. Look at the mask."
    )
    return (Note("longest_axis_uncertain", "warning", text),)


def _side_notes(location: BreastLocation | None, source: CineSource | None) -> tuple[Note, ...]:
    """Whether a DICOM file says that it shows the other side."""
    if location is None or location.side is None or source is None or source.study is None:
        return ()
    from samus_edge.runtime.dicom.dicom_frames import text_of

    dataset = source.study.dataset
    stated = text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality")
    if stated not in ("L", "R") or stated == location.side[0].upper():
        return ()
    text = f"The side is given as {location.side}, and the file says that it shows the other one."
    return (Note("side_contradiction", "warning", text),)


_LEFT = BreastLocation("left")


def mask_records(
    prediction: Prediction,
    prompts: Prompts,
    boxes: Sequence[Box],
    source: CineSource,
    spacing: PixelSpacing | None,
    location: BreastLocation | None = None,
) -> tuple[MaskRecord, ...]:
    """The record of each prompt's mask.

    Args:
        prediction: One mask for each prompt.
        prompts: As `prompts_for` gives them.
        boxes: As they were given, before they were clipped.
        source: Where the frame is from.
        spacing: See `mask_record`.
        location: See `mask_record`; of one lesion, so only its side may be that of several.

    Raises:
        BadArgumentError: if more than a side is given for several masks.
    """
    if location is not None and len(prompts) > 1 and replace(location, side="left") != _LEFT:
        raise BadArgumentError(
            f"hour, distance and depth are those of one lesion, and there are {len(prompts)} "
            "prompts. Give one prompt, or the side alone."
        )
    records = [
        _prompt_record(prompts, row, boxes[row] if boxes else None) for row in range(len(prompts))
    ]
    if prediction.proposals is not None:
        records = [
            replace(record, proposal_score=round(float(score), 4))
            for record, score in zip(records, prediction.proposals.scores, strict=True)
        ]
    return tuple(
        mask_record(
            prediction.masks[index, 0],
            prediction.iou_predictions[index, 0],
            source,
            spacing,
            records[index],
            prediction.notes,
            location,
            None if prediction.quality is None else prediction.quality[index],
        )
        for index in range(len(prompts))
    )


def _prompt_record(prompts: Prompts, index: int, given: Box | None) -> PromptRecord:
    points = tuple(
        (_as_given(x), _as_given(y), int(label))
        for (x, y), label in zip(
            prompts.point_coords[index], prompts.point_labels[index], strict=True
        )
        if label != PADDING_LABEL
    )
    if prompts.boxes is None or given is None:
        return PromptRecord(points=points)
    x1, y1, x2, y2 = (_as_given(value) for value in prompts.boxes[index])
    height, width = prompts.original_hw
    was_clipped = min(given) < -0.5 or given[2] > width - 0.5 or given[3] > height - 0.5
    return PromptRecord((x1, y1, x2, y2), points, was_clipped)


def _as_given(coordinate: np.float32) -> float:
    """As the user wrote it, without the digits that float32 adds: 70.4, not 70.4000015."""
    return round(float(coordinate), 3)


def frame_record(
    index: int,
    seconds: float | None,
    tracked: TrackedFrame,
    latency_ms: float,
    source: CineSource | None,
    spacing: PixelSpacing | None,
    location: BreastLocation | None = None,
) -> FrameRecord:
    """The record of a tracked frame; see `FrameRecord` and `mask_record`."""
    mask: MaskRecord | None = None
    if tracked.mask is not None and tracked.predicted_iou is not None:
        mask = mask_record(
            *(tracked.mask, tracked.predicted_iou, source, spacing),
            notes=() if tracked.quality else (QUALITY_UNKNOWN,),
            location=location,
            quality=tracked.quality,
        )
    return FrameRecord(index, seconds, latency_ms, replace(tracked, mask=None), mask)


def proposed_prompts(prediction: Prediction) -> Prompts:
    """The clicks of a model's proposals, a prompt each; maybe none."""
    assert prediction.proposals is not None
    points = prediction.proposals.points[:, None]  # (N, 1, 2)
    labels = np.ones(points.shape[:2], np.int32)
    return Prompts(prediction.original_hw, None, points, labels, None)


def prompts_for(
    boxes: Sequence[Box], points: Sequence[Point], original_hw: tuple[int, int]
) -> Prompts:
    """Bring boxes and points into the rows that a segmenter takes, and check them.

    Args:
        boxes: XYXY, pixels of the image.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background. Without boxes
            all are one prompt, with one box they are all its own, with several each belongs to the
            boxes that contain it.
        original_hw: (H, W) of the image, pixels.

    Raises:
        BadArgumentError: if there is no prompt, or one does not fit the image.
    """
    box_rows = np.array(boxes, np.float64).reshape(-1, 4) if boxes else None  # (N, 4)
    if not points:
        return check_prompts(original_hw, boxes=box_rows)
    coords = np.array([point[:2] for point in points], np.float64)  # (P, 2)
    labels = np.array([point[2] for point in points], np.int32)  # (P,)
    if box_rows is None:
        return check_prompts(original_hw, point_coords=coords, point_labels=labels)
    # First on their own: a point outside the image is that, before it is outside a box.
    check_prompts(original_hw, point_coords=coords)
    check_prompts(original_hw, boxes=box_rows)
    row_coords, row_labels = assign_points_to_boxes(box_rows, coords, labels)
    return check_prompts(
        original_hw, boxes=box_rows, point_coords=row_coords, point_labels=row_labels
    )


def predict_prompted(
    segmenter: Segmenter, embedding: Embedding, boxes: Sequence[Box], points: Sequence[Point]
) -> Prediction:
    """The masks of boxes and points on an encoded image; arguments and errors as `prompts_for`."""
    prompts = prompts_for(boxes, points, embedding.original_hw)
    return segmenter.predict(
        embedding,
        boxes=prompts.boxes,
        point_coords=prompts.point_coords,
        point_labels=prompts.point_labels,
    )


def computed_by(segmenter: Segmenter) -> dict[str, Any]:
    """What makes a result traceable, as a part of its JSON document."""
    backend, bundle = segmenter.backend, segmenter.bundle
    manifest = bundle.manifest
    return {
        "backend": backend.name,
        "device": backend.device,
        "threads": backend.threads,
        "precision": segmenter.precision,
        "graphs": segmenter.graph_hashes,
        "bundle": {
            "name": manifest.name,
            "path": str(bundle.path),
            "format_version": manifest.format_version,
            "model": manifest.model,
            "arch": manifest.arch,
            "weights_sha256": manifest.weights_sha256,
            "graphs": {name: graph.sha256 for name, graph in manifest.graphs.items()},
        },
        "versions": {
            "samus_edge": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            backend.name: backend.version,
        },
    }


def all_notes(source: CineSource, masks: Iterable[MaskRecord | None]) -> tuple[Note, ...]:
    """What a user should know of a file and of masks in it, each once."""
    of_masks = chain.from_iterable(mask.notes for mask in masks if mask is not None)
    return tuple(dict.fromkeys([*source.notes, *of_masks]))


def refuse_warnings(notes: Iterable[Note]) -> None:
    """Fail where a note says that a result may be wrong.

    Raises:
        SamusEdgeError: with the texts of all notes of level warning.
    """
    texts = [note.text for note in notes if note.level == "warning"]
    if texts:
        raise SamusEdgeError(f"not accepted, because strict was asked for: {' '.join(texts)}")


def legend_note(segmenter: Segmenter) -> str:
    """The last line of every picture."""
    name = segmenter.bundle.manifest.name
    return f"samus-edge {__version__}, {name} ({segmenter.precision}). Not a medical device."
