"""Segment one image file and write what was asked for: the work of `samus-edge infer`."""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.errors import BadArgumentError
from samus_edge.runtime.backends.backend_selection import check_backend, check_threads
from samus_edge.runtime.bundle.bundle import Bundle, check_precision
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.runtime.cine.cine_source import FileFrames, open_frames
from samus_edge.runtime.dicom.dicom_frames import require_highdicom
from samus_edge.runtime.images.output_files import (
    check_output_paths,
    sha256_of_file,
    write_files_atomically,
)
from samus_edge.runtime.images.overlay import (
    MAX_LABELS,
    OverlayItem,
    calliper_text,
    draw_overlay,
    encode_image,
    mask_image,
)
from samus_edge.runtime.measurement.lesion_measurements import (
    LesionMeasurements,
    PixelSpacing,
    box_around,
    measure_lesion,
)
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.prompts import PADDING_LABEL, Prompts, assign_points_to_boxes, check_prompts
from samus_edge.runtime.segmenter import Segmenter, predict_with_clicks

__all__ = [
    "Box",
    "FileSegmentation",
    "MaskReport",
    "Point",
    "PromptReport",
    "SegmentationReport",
    "segment_file",
]


@dataclass(frozen=True)
class PromptReport:
    """One prompt as it was used.

    Attributes:
        box: XYXY, pixels of the image, clipped to it; None without a box.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        was_clipped: whether a part of the box outside the image was cut off.
    """

    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float, int], ...] = ()
    was_clipped: bool = False

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "box": None if self.box is None else list(self.box),
            "points": [list(point) for point in self.points],
            "was_clipped": self.was_clipped,
        }


@dataclass(frozen=True)
class MaskReport:
    """One mask.

    Attributes:
        area_px: pixels inside.
        box: the smallest box around it, XYXY, pixel centres, both ends inside; None if empty.
        predicted_iou: the model's estimate of the mask's IoU; not clipped, may leave [0, 1].
        prompt: what it was prompted by.
        measurements: of its largest component; None if empty.
    """

    area_px: int
    box: tuple[int, int, int, int] | None
    predicted_iou: float
    prompt: PromptReport
    measurements: LesionMeasurements | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "area_px": self.area_px,
            "box": None if self.box is None else list(self.box),
            "predicted_iou": self.predicted_iou,
            "prompt": self.prompt.to_json(),
            "measurements": None if self.measurements is None else self.measurements.to_json(),
        }


@dataclass(frozen=True)
class SegmentationReport:
    """The result of segmenting one file.

    Attributes:
        image: path as it was given.
        image_sha256: of the file.
        original_hw: (H, W) of the image, pixels.
        masks: one for each prompt, in the order of the prompts.
        timings_ms: wall time of each step by its name, and "total".
        backend: name of the backend.
        device: what computed.
        threads: CPU threads that computed one graph.
        precision: of the image encoder.
        bundle: that computed.
        versions: of what took part, by name.
        mask_file: where the mask was written; None if nowhere.
        overlay_file: where the overlay was written; None if nowhere.
        frame: index of the frame of a DICOM file, from 0; None for an image file.
        dicom_seg_file: where the DICOM segmentation was written; None if nowhere.
        dicom_sr_file: where the DICOM report was written; None if nowhere.
    """

    image: Path
    image_sha256: str
    original_hw: tuple[int, int]
    masks: tuple[MaskReport, ...]
    timings_ms: Mapping[str, float]
    backend: str
    device: str
    threads: int
    precision: str
    bundle: Bundle
    versions: Mapping[str, str] = field(default_factory=dict)
    mask_file: Path | None = None
    overlay_file: Path | None = None
    frame: int | None = None
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """As the document that `samus-edge infer --json` prints."""
        height, width = self.original_hw
        manifest = self.bundle.manifest
        return {
            "image": {
                "path": str(self.image),
                "sha256": self.image_sha256,
                "width": width,
                "height": height,
                "frame": self.frame,
            },
            "masks": [mask.to_json() for mask in self.masks],
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "backend": self.backend,
            "device": self.device,
            "threads": self.threads,
            "precision": self.precision,
            "bundle": {
                "name": manifest.name,
                "path": str(self.bundle.path),
                "format_version": manifest.format_version,
                "model": manifest.model,
                "arch": manifest.arch,
                "weights_sha256": manifest.weights_sha256,
                "graphs": {name: graph.sha256 for name, graph in manifest.graphs.items()},
            },
            "versions": dict(self.versions),
            "mask_file": None if self.mask_file is None else str(self.mask_file),
            "overlay_file": None if self.overlay_file is None else str(self.overlay_file),
            "dicom_seg_file": None if self.dicom_seg_file is None else str(self.dicom_seg_file),
            "dicom_sr_file": None if self.dicom_sr_file is None else str(self.dicom_sr_file),
        }

    def lines(self) -> list[str]:
        """As the lines that `samus-edge infer` prints for people."""
        height, width = self.original_hw
        frame = "" if self.frame is None else f", frame {self.frame}"
        lines = [f"{self.image}{frame}: {width} x {height} pixels"]
        for index, mask in enumerate(self.masks):
            lines.append(f"  mask {index + 1}: {_describe_mask(mask, width * height)}")
            if mask.measurements is not None and mask.measurements.unit == "mm":
                lines.append(f"    {calliper_text(mask.measurements)}")
            if mask.prompt.was_clipped:
                lines.append(f"    its box was cut to the image: {_coordinates(mask.prompt.box)}")
        if self.mask_file is not None:
            values = "0 and 255" if len(self.masks) == 1 else f"labels 1 to {len(self.masks)}"
            lines.append(f"  mask file: {self.mask_file} ({values})")
        if self.overlay_file is not None:
            lines.append(f"  overlay: {self.overlay_file}")
        if self.dicom_seg_file is not None:
            lines.append(f"  DICOM segmentation: {self.dicom_seg_file} (identifies the patient)")
        if self.dicom_sr_file is not None:
            lines.append(f"  DICOM report: {self.dicom_sr_file} (identifies the patient)")
        times = ", ".join(f"{name} {value:.0f} ms" for name, value in self.timings_ms.items())
        lines.append(
            f"  {self.bundle.manifest.name} ({self.precision}) on {self.backend}, "
            f"{self.threads} threads: {times}"
        )
        lines.append("  Not a medical device; `samus-edge info` says what it is for.")
        return lines


def _describe_mask(mask: MaskReport, image_px: int) -> str:
    if mask.box is None:
        return f"empty, predicted IoU {mask.predicted_iou:.2f}"
    return (
        f"{mask.area_px} px ({100 * mask.area_px / image_px:.1f} %), "
        f"box {_coordinates(mask.box)}, predicted IoU {mask.predicted_iou:.2f}"
    )


def _coordinates(values: tuple[float, ...] | None) -> str:
    return ",".join(f"{value:g}" for value in values or ())


Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float, int]


@dataclass(frozen=True)
class FileSegmentation:
    """What to segment, with what, and where results go.

    Boxes without points give one mask for each box. Points without boxes are one prompt: one mask.
    With one box, points correct its mask, one after the other (`predict_with_clicks`); with
    several, a point refines each box that contains it.

    Attributes:
        image: a PNG, JPEG, BMP, TIFF or DICOM file.
        boxes: XYXY, pixels of the image.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        bundle: folder of a bundle, or a zip file of one; None for the default bundle.
        backend: see `select_backend`.
        precision: see `Segmenter.load`.
        threads: CPU threads; None for all cores, at most 8.
        mask_file: PNG for the masks, see `mask_image`; None for none.
        overlay_file: PNG or JPEG for people, see `draw_overlay`; None for none.
        spacing: size of a pixel; None takes it from a DICOM file, and else measures in pixels.
        has_callipers: whether diameters are drawn on the overlay.
        frame: index of the frame of a DICOM file, from 0.
        dicom_seg_file: DICOM file for the masks of a DICOM image; None for none.
        dicom_sr_file: DICOM file for their measurements, which refer to that; None for none.
    """

    image: Path
    boxes: Sequence[Box] = ()
    points: Sequence[Point] = ()
    bundle: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    mask_file: Path | None = None
    overlay_file: Path | None = None
    spacing: PixelSpacing | None = None
    has_callipers: bool = False
    frame: int = 0
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None


def segment_file(job: FileSegmentation) -> SegmentationReport:
    """Segment an image file; all that can be checked early is, and outputs come last and at once.

    Raises:
        BadArgumentError: if an argument is wrong, by itself or for this image.
        ImageFileError: if the image cannot be read.
        BundleError: if the bundle is missing, damaged or of a newer format.
        BackendError: if the backend is not available or fails.
        OutputFileError: if a result cannot be written; then none is.
    """
    clock = _Clock()
    _check_job(job)
    source = open_frames(job.image)
    image = source.read(job.frame)
    _check_dicom_outputs(job, source)
    original_hw = (image.shape[0], image.shape[1])
    prompts = _prompts_for(job, original_hw)
    clock.lap("read")
    with Segmenter.load(
        job.bundle, backend=job.backend, precision=job.precision, threads=job.threads
    ) as segmenter:
        clock.lap("load")
        embedding = segmenter.encode(image)
        clock.lap("encode")
        prediction = _predict(job, segmenter, embedding, prompts)
        clock.lap("decode")
        masks = prediction.masks[:, 0]  # (N, H, W)
        reports = _mask_reports(job, source, prompts, prediction)
        outputs: dict[Path, bytes] = {}
        if job.mask_file is not None:
            outputs[job.mask_file] = encode_image(job.mask_file, mask_image(masks))
        if job.overlay_file is not None:
            overlay = draw_overlay(image, _overlay_items(job, masks, reports), _notes(segmenter))
            outputs[job.overlay_file] = encode_image(job.overlay_file, overlay)
        outputs |= _dicom_outputs(job, source, masks, reports, segmenter)
        write_files_atomically(outputs)
        clock.lap("write")
        return SegmentationReport(
            image=job.image,
            image_sha256=sha256_of_file(job.image),
            original_hw=original_hw,
            masks=reports,
            timings_ms=clock.timings_ms(),
            backend=segmenter.backend.name,
            device=segmenter.backend.device,
            threads=segmenter.backend.threads,
            precision=segmenter.precision,
            bundle=segmenter.bundle,
            versions={
                "samus_edge": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
                segmenter.backend.name: segmenter.backend.version,
            },
            mask_file=job.mask_file,
            overlay_file=job.overlay_file,
            frame=None if source.study is None else job.frame,
            dicom_seg_file=job.dicom_seg_file,
            dicom_sr_file=job.dicom_sr_file,
        )


def _predict(
    job: FileSegmentation, segmenter: Segmenter, embedding: Embedding, prompts: Prompts
) -> Prediction:
    if len(job.boxes) == 1 and job.points:
        return predict_with_clicks(
            segmenter,
            embedding,
            box=job.boxes[0],
            point_coords=[point[:2] for point in job.points],
            point_labels=[point[2] for point in job.points],
        )
    return segmenter.predict(
        embedding,
        boxes=prompts.boxes,
        point_coords=prompts.point_coords,
        point_labels=prompts.point_labels,
    )


class _Clock:
    """Wall time of steps that follow one another, milliseconds."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = 1000 * (now - self._last)
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        return {**self._laps, "total": 1000 * (time.perf_counter() - self._start)}


def _check_job(job: FileSegmentation) -> None:
    """Check all that needs neither the image nor the bundle."""
    if not job.boxes and not job.points:
        raise BadArgumentError(
            "no prompt was given. Give at least one box (--box x1,y1,x2,y2) or one point "
            "(--point x,y)."
        )
    if job.mask_file is not None and len(job.boxes) > MAX_LABELS:
        raise BadArgumentError(
            f"a mask file holds at most {MAX_LABELS} masks, got {len(job.boxes)} boxes. "
            "Give fewer boxes."
        )
    check_backend(job.backend)
    check_precision(job.precision)
    check_threads(job.threads)
    check_output_paths(
        job.image, job.mask_file, job.overlay_file, job.dicom_seg_file, job.dicom_sr_file
    )
    if job.dicom_sr_file is not None and job.dicom_seg_file is None:
        raise BadArgumentError(
            "a DICOM report refers to a DICOM segmentation, which is not written. Give a file for "
            "that as "
            "well (--dicom-seg)."
        )
    if job.dicom_seg_file is not None:
        require_highdicom()


def _check_dicom_outputs(job: FileSegmentation, source: FileFrames) -> None:
    if source.study is None and job.dicom_seg_file is not None:
        raise BadArgumentError(
            f"a DICOM segmentation refers to a DICOM image, and {job.image} is none. Write a mask "
            "instead (--out)."
        )


def _dicom_outputs(
    job: FileSegmentation,
    source: FileFrames,
    masks: npt.NDArray[np.bool_],
    reports: Sequence[MaskReport],
    segmenter: Segmenter,
) -> dict[Path, bytes]:
    """The DICOM files, of masks that are not empty."""
    if source.study is None or job.dicom_seg_file is None:
        return {}
    from samus_edge.runtime.dicom.dicom_results import (
        ModelIdentity,
        dicom_bytes,
        report_of,
        segmentation_of,
    )

    measured = [report.measurements for report in reports if report.measurements is not None]
    if not measured:
        raise BadArgumentError("all masks are empty: there is no DICOM segmentation to write.")
    model = ModelIdentity(
        segmenter.bundle.manifest.name, segmenter.graph_hashes[IMAGE_ENCODER], segmenter.precision
    )
    filled = masks[[report.measurements is not None for report in reports]]
    segmentation = segmentation_of(source.study, job.frame, filled, model)
    outputs = {job.dicom_seg_file: dicom_bytes(segmentation)}
    if job.dicom_sr_file is not None:
        report = report_of(source.study, job.frame, segmentation, measured, model)
        outputs[job.dicom_sr_file] = dicom_bytes(report)
    return outputs


def _prompts_for(job: FileSegmentation, original_hw: tuple[int, int]) -> Prompts:
    """Bring boxes and points into the rows that a segmenter takes, and check them."""
    boxes = np.array(job.boxes, np.float64).reshape(-1, 4) if job.boxes else None  # (N, 4)
    if not job.points:
        return check_prompts(original_hw, boxes=boxes)
    coords = np.array([point[:2] for point in job.points], np.float64)  # (P, 2)
    labels = np.array([point[2] for point in job.points], np.int32)  # (P,)
    # First on their own: a point outside the image is that, before it is outside a box.
    checked = check_prompts(original_hw, point_coords=coords, point_labels=labels)
    if boxes is None:
        return checked
    check_prompts(original_hw, boxes=boxes)
    row_coords, row_labels = assign_points_to_boxes(boxes, coords, labels)
    return check_prompts(original_hw, boxes=boxes, point_coords=row_coords, point_labels=row_labels)


def _mask_reports(
    job: FileSegmentation, source: FileFrames, prompts: Prompts, prediction: Prediction
) -> tuple[MaskReport, ...]:
    reports = []
    for index, mask in enumerate(prediction.masks[:, 0]):
        box = box_around(mask)
        spacing = job.spacing if job.spacing is not None or box is None else source.spacing_in(box)
        reports.append(
            MaskReport(
                area_px=int(np.count_nonzero(mask)),
                box=box,
                predicted_iou=round(float(prediction.iou_predictions[index, 0]), 6),
                prompt=_prompt_report(job, prompts, index),
                measurements=measure_lesion(mask, spacing),
            )
        )
    return tuple(reports)


def _prompt_report(job: FileSegmentation, prompts: Prompts, index: int) -> PromptReport:
    points = tuple(
        (_reported(x), _reported(y), int(label))
        for (x, y), label in zip(
            prompts.point_coords[index], prompts.point_labels[index], strict=True
        )
        if label != PADDING_LABEL
    )
    if prompts.boxes is None:
        return PromptReport(box=None, points=points)
    x1, y1, x2, y2 = (_reported(value) for value in prompts.boxes[index])
    height, width = prompts.original_hw
    given = job.boxes[index]
    was_clipped = min(given) < -0.5 or given[2] > width - 0.5 or given[3] > height - 0.5
    return PromptReport(box=(x1, y1, x2, y2), points=points, was_clipped=was_clipped)


def _reported(coordinate: np.float32) -> float:
    """As the user wrote it, without the digits that float32 adds: 70.4, not 70.4000015."""
    return round(float(coordinate), 3)


def _overlay_items(
    job: FileSegmentation, masks: npt.NDArray[np.bool_], reports: tuple[MaskReport, ...]
) -> list[OverlayItem]:
    return [
        OverlayItem(
            mask=mask,
            caption=f"{report.area_px} px, predicted IoU {report.predicted_iou:.2f}",
            box=report.prompt.box,
            points=report.prompt.points,
            measurements=report.measurements if job.has_callipers else None,
        )
        for mask, report in zip(masks, reports, strict=True)
    ]


def _notes(segmenter: Segmenter) -> list[str]:
    name = segmenter.bundle.manifest.name
    return [f"samus-edge {__version__}, {name} ({segmenter.precision}). Not a medical device."]
